"""Records of options of the backbones: what is imported here, a `type` can name."""

# ruff: noqa: F401
from vidgraph.backbones.digits import DigitsOptions, SimpleC2DOptions
from vidgraph.backbones.image import BNInceptionOptions, SmallResNet2DOptions, TimmOptions
from vidgraph.backbones.resnet3d import ResNet3DOptions
from vidgraph.backbones.video import HFOptions
