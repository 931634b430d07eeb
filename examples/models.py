"""Residual networks for PyTorch (He et al., "Deep Residual Learning for Image Recognition", 2015),
with the names, layers and sizes of torchvision's, which need not be installed."""

import torch
from torch import nn


def convolution(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 beside a shortcut."""

    expansion = 1

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = convolution(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x):
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 (with the stride) and 1 x 1 beside a shortcut."""

    expansion = 4

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x):
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.relu(out + self.downsample(x))


def shortcut(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """From images (batch, 3, height, width) to logits (batch, classes).

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: blocks of each stage. A stage halves height and width, but the first.
        width: channels of the first stage; each stage has twice those of the one before.
        small: for images of 32 x 32, which are not made smaller at the beginning.
    """

    def __init__(self, block, depths, width, classes, small):
        super().__init__()
        self.begin = nn.Sequential(
            convolution(3, width, 3), nn.BatchNorm2d(width), nn.ReLU()) if small else nn.Sequential(
            convolution(3, width, 7, 2), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1))
        blocks, inputs = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(block(inputs, width << stage, stride))
                inputs = (width << stage) * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        return self.fc(self.blocks(self.begin(x)).mean(dim=(2, 3)))


def resnet20(num_classes=10):
    return ResNet(BasicBlock, [3, 3, 3], 16, num_classes, small=True)


def resnet32(num_classes=10):
    return ResNet(BasicBlock, [5, 5, 5], 16, num_classes, small=True)


def resnet18(num_classes=1000):
    return ResNet(BasicBlock, [2, 2, 2, 2], 64, num_classes, small=False)


def resnet50(num_classes=1000):
    return ResNet(Bottleneck, [3, 4, 6, 3], 64, num_classes, small=False)
