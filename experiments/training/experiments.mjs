/** The training runs of this folder: what is trained on what, the flags of `pare train`, and what the test data must say. */

/** Folders that commands are run in: beside the checkout lies shared/data; archives are unpacked into a temporary folder. */
const mnist = (split) => `idx:mnist?split=${split}&scale=255`;
const fashion = (split) => `idx:fashion-mnist?split=${split}&scale=255&mean=0.286&std=0.353`;
const cifar = (split) =>
  `images:cifar10-jpg/${split}?scale=255&mean=0.4914,0.4822,0.4465&std=0.247,0.2435,0.2616`;
const shakespeare = (options) => `text:text/tinyshakespeare.txt?vocab=chars&length=128&${options}`;

/**
 * `train` and `evaluate` are arguments of the two verbs. Nothing is chosen by the test data: training sees none of it, and
 * the weights after the last step are judged.
 */
export const EXPERIMENTS = [
  {
    name: "mnist-lenet-300-100",
    title: "LeNet-300-100 on MNIST",
    network: "lenet-300-100",
    data: mnist("train"),
    test: mnist("test"),
    flags: "--epochs 25 --crop 2 --schedule one-cycle --learning-rate 0.2 --weight-decay 0.0001",
    require: "accuracy>=0.983",
  },
  {
    name: "mnist-lenet-5",
    title: "LeNet-5 on MNIST",
    network: "lenet-5",
    data: mnist("train"),
    test: mnist("test"),
    flags: "--epochs 5 --crop 2 --schedule one-cycle --learning-rate 0.05 --weight-decay 0.0005",
    require: "accuracy>=0.991",
  },
  {
    name: "fashion-small-cnn",
    title: "A small CNN on Fashion-MNIST",
    network: "small-cnn",
    data: fashion("train"),
    test: fashion("test"),
    flags:
      "--width 24 --epochs 12 --flip --schedule one-cycle --learning-rate 0.05 --weight-decay 0.0005",
    require: "accuracy>=0.92",
  },
  {
    name: "cifar10-resnet-20",
    title: "ResNet-20 on CIFAR-10 (the JPEG copy)",
    network: "resnet-20",
    data: cifar("train"),
    test: cifar("test"),
    archive: "cifar10-jpg.tar.gz",
    flags: "--epochs 6 --batch 64 --flip --crop 4 --schedule one-cycle --learning-rate 0.1 --nesterov --weight-decay 0.0005",
    require: "accuracy>=0.8",
  },
  {
    name: "shakespeare-gpt-nano",
    title: "gpt-nano on Tiny Shakespeare (nats per character)",
    network: "gpt-nano",
    // Windows start every 31 characters; the last tenth is kept for the test, and no window reaches into it.
    data: shakespeare("stride=31&part=0,0.8998"),
    test: shakespeare("part=0.9,1"),
    flags:
      "--epochs 1 --batch 16 --optimizer adamw --learning-rate 0.003 --warmup 0.05 --beta2 0.99 --weight-decay 0.1 --clip-norm 1",
    require: "loss<=1.75",
  },
];
