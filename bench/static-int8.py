"""Quantizes a model by onnxruntime's own static quantizer: argv are the model, the calibration samples (.npy) and the file to write; options as JSON on stdin."""
import json
import sys

import numpy
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

model, samples, target = sys.argv[1:]
options = json.load(sys.stdin)


class Reader(CalibrationDataReader):
    def __init__(self):
        images = numpy.load(samples)
        name = onnxruntime.InferenceSession(model).get_inputs()[0].name
        self.feeds = iter([{name: images[i : i + 1]} for i in range(len(images))])

    def get_next(self):
        return next(self.feeds, None)


prepared = target + ".prepared.onnx"
quant_pre_process(model, prepared, skip_symbolic_shape=True)
quantize_static(
    prepared,
    target,
    Reader(),
    per_channel=options["perChannel"],
    activation_type=QuantType[options["activations"]],
    weight_type=QuantType.QInt8,
    calibrate_method=CalibrationMethod[options["calibration"]],
)
json.dump({"onnxruntime": onnxruntime.__version__}, sys.stdout)
