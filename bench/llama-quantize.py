"""Quantizes a GGUF file to Q4_0 with the libllama of a folder: folder, input, output, threads; prints the seconds and the library's version."""
import ctypes
import glob
import json
import os
import re
import sys
import time

folder, source, target, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])


def library(pattern):
    found = sorted(glob.glob(os.path.join(folder, pattern)))
    if not found:
        sys.exit(f"no {pattern} in the folder")
    return ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)


class Parameters(ctypes.Structure):
    """The first fields of llama_model_quantize_params; what follows them differs between versions and keeps its defaults."""

    _fields_ = [
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int32),
        ("output_tensor_type", ctypes.c_int32),
        ("token_embedding_type", ctypes.c_int32),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("rest", ctypes.c_uint8 * 236),
    ]


Q4_0 = 2  # LLAMA_FTYPE_MOSTLY_Q4_0
library("libggml-base*.so*")
ggml = library("libggml.*so*")
llama = library("libllama.*so*")
if hasattr(ggml, "ggml_backend_load_all_from_path"):
    ggml.ggml_backend_load_all_from_path(folder.encode())
llama.llama_backend_init()
llama.llama_model_quantize_default_params.restype = Parameters
llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Parameters)]
llama.llama_model_quantize.restype = ctypes.c_uint32
parameters = llama.llama_model_quantize_default_params()
parameters.nthread, parameters.ftype, parameters.pure = threads, Q4_0, True
start = time.perf_counter()
status = llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
if status != 0:
    sys.exit(f"llama_model_quantize returned {status}")
seconds = time.perf_counter() - start
version = re.search(r"\d+(\.\d+)*", os.path.basename(llama._name))
print(json.dumps({"seconds": seconds, "version": version.group() if version else "unknown"}))
