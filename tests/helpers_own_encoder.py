"""An encoder of one's own, as docs/encoders.md shows it: the tests import it by name."""

import numpy as np


class VegetationIndex:
    """Mean and spread of NDVI; bands: near infrared, red."""

    name, dim, input_px, digest = "ndvi", 2, None, "ndvi-1"

    def encode(self, images):
        nir, red = images[:, 0].astype(np.float64), images[:, 1].astype(np.float64)
        ndvi = (nir - red) / (nir + red + 1e-6)
        return np.stack([ndvi.mean(axis=(1, 2)), ndvi.std(axis=(1, 2))], axis=1).astype(np.float32)


class Undigested(VegetationIndex):
    digest = ""


def open_ndvi(input_px, seed):
    """Mean and spread of NDVI."""
    return VegetationIndex()


def open_undigested(input_px, seed):
    return Undigested()


def open_nothing(input_px, seed):
    return "no encoder"


class SmallVideo:
    """A 3-D convolution over time and place with random weights, and the slope of its mean over the years: a control."""

    name, dim, input_px = "small_video", 9, 16

    def __init__(self, seed):
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer = torch.nn.Conv3d(3, 8, kernel_size=(2, 3, 3), padding=(1, 1, 1))
        self.digest = f"small_video-{seed}"

    def encode_sequence(self, images, years):
        import torch

        with torch.inference_mode():
            rows = [self.layer(torch.from_numpy(one.swapaxes(0, 1))[None]).abs().mean((2, 3, 4)) for one in images]
        at = years - years.mean()
        slope = images.mean(axis=(2, 3, 4)) @ at / max((at**2).sum(), 1e-12)
        return np.concatenate([torch.cat(rows).numpy(), slope[:, None]], axis=1).astype(np.float32)


def open_video(input_px, seed):
    """Control: a video network with random weights."""
    return SmallVideo(seed)


def open_narrow_video(input_px, seed):
    found = SmallVideo(seed)
    found.dim = 4
    return found
