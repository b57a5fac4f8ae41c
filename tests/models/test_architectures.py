import pytest
import torch
from torch import nn

from modelmoat.core.errors import ModelError, OptionError, UnknownReference
from modelmoat.models import Classifier, arch_infos, arch_names, create_network, register_arch

# Trainable parameters at 10 classes. LeNet at 28x28x1, all others at 32x32x3.
# Published: LeNet-5 about 60k; ResNet-20/32 0.27M/0.46M (He et al., table 6); WRN-16-2/40-2 0.7M/2.2M
# (Zagoruyko and Komodakis, table 5); the exact counts follow from the layer tables of the papers.
PARAMETERS = {
    "lenet": 61_706,
    "small_cnn": 57_130,
    "resnet8": 75_290,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet18": 11_173_962,
    "wrn16_2": 691_674,
    "wrn40_2": 2_243_546,
    "vgg11_bn": 9_231_114,
    "vgg16_bn": 14_728_266,
}
SMALL = ["lenet", "small_cnn", "resnet8", "resnet20", "wrn16_2"]


def build(arch: str, *, size: int = 32, channels: int = 3, seed: int = 0) -> Classifier:
    return create_network(arch, num_classes=10, input_shape=(channels, size, size), seed=seed)


def test_the_table_covers_the_registry():
    assert sorted(PARAMETERS) == arch_names()


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameter_count_is_the_published_one(arch):
    network = build(arch, size=28, channels=1) if arch == "lenet" else build(arch)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[arch]


@pytest.mark.parametrize("arch", PARAMETERS)
@pytest.mark.parametrize("extra", [0, 1, 5])
def test_every_size_from_the_smallest_works(arch, extra):
    size = next(info.min_size for info in arch_infos() if info.name == arch) + extra
    network = build(arch, size=size).eval()
    images = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        logits = network(images)
        assert logits.shape == (2, 10)
        assert torch.equal(network.head(network.features(images)), logits)


@pytest.mark.parametrize("arch", PARAMETERS)
def test_gradients_reach_every_parameter(arch):
    network = build(arch, size=16)
    nn.functional.cross_entropy(network(torch.rand(4, 3, 16, 16)), torch.arange(4)).backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still
    weights = [p for p in network.parameters() if p.dim() > 1]
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


@pytest.mark.parametrize("arch", SMALL)
def test_no_module_is_used_twice_in_one_pass(arch):
    network = build(arch).eval()
    calls = dict.fromkeys((m for m in network.modules() if not list(m.children())), 0)
    for module in calls:
        module.register_forward_hook(lambda m, *_: calls.__setitem__(m, calls[m] + 1))
    network(torch.rand(1, 3, 32, 32))
    assert set(calls.values()) == {1}


def test_same_seed_same_weights_and_global_rng_untouched():
    before = torch.get_rng_state()
    first, second, other = build("resnet8"), build("resnet8"), build("resnet8", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    third = build("resnet8")
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
        assert torch.equal(value, third.state_dict()[key])
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize("arch", ["resnet20", "wrn16_2", "vgg11_bn"])
def test_activations_neither_vanish_nor_explode_at_the_start(arch):
    network = build(arch).train()
    with torch.no_grad():
        spread = network.features(torch.rand(8, 3, 32, 32)).std()
    assert 1e-3 < spread < 1e2


def test_images_are_normalized_per_channel():
    plain = create_network("small_cnn", num_classes=3, input_shape=(3, 8, 8), seed=0).eval()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    shifted = create_network("small_cnn", num_classes=3, input_shape=(3, 8, 8), seed=0, mean=mean, std=std).eval()
    images = torch.rand(2, 3, 8, 8)
    by_hand = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(shifted(images), plain(by_hand))
    assert {"mean", "std"} <= set(shifted.state_dict())


def test_option_a_shortcut_keeps_pixels_and_pads_channels_with_zeros():
    from modelmoat.models.archs.resnet import BasicBlock

    block = BasicBlock(2, 4, 2, projection=False).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 2, 4, 4)
    y = block(x)
    torch.testing.assert_close(y[:, 1:3], x[:, :, ::2, ::2])
    assert y[:, 0].abs().sum() == 0
    assert y[:, 3].abs().sum() == 0


def test_unknown_architecture_names_the_nearest():
    with pytest.raises(UnknownReference, match="did you mean 'resnet20'"):
        build("resnet-20")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"input_shape": (1, 8, 8)}, ModelError, "at least 12x12, got 8x8"),
        ({"input_shape": (1, 28, 32)}, ModelError, "square images, got 28x32"),
        ({"input_shape": (0, 28, 28)}, ModelError, "at least 1 channel"),
        ({"num_classes": 1}, OptionError, "num_classes=1"),
        ({"mean": (0.5, 0.5)}, OptionError, "2 values for 1 channels"),
        ({"std": (0.0,)}, OptionError, "above 0"),
    ],
)
def test_impossible_networks_are_refused(change, error, words):
    options = {"num_classes": 10, "input_shape": (1, 28, 28), "seed": 0} | change
    with pytest.raises(error, match=words):
        create_network("lenet", **options)


def test_a_name_is_registered_once():
    arch_names()
    with pytest.raises(ValueError, match="registered twice"):
        register_arch("lenet", summary="", paper="", min_size=1)(lambda num_classes, channels, size: None)
