import torch
from torch import nn

from avbench.batch import Batch
from avbench.models.fusion import LateFusion, Unimodal
from avbench.models.resnet import Encoder, _folded
from avbench.training.passes import prepare
from avbench.vocabulary import MODALITIES


def batch_of(clips: int = 3, frames: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        audio=torch.randn(clips, 1, 64, 50, generator=generator),
        frames=torch.randn(clips, frames, 3, 64, 64, generator=generator),
        label=torch.zeros(clips, dtype=torch.long),
        clip_id=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
    )


def test_unimodal_parts_add_up_to_the_logits() -> None:
    torch.manual_seed(0)
    model = LateFusion(5).eval()
    nn.init.normal_(model.head.bias)
    outputs = model(batch_of())
    torch.testing.assert_close(sum(outputs.unimodal_logits.values()), outputs.logits, rtol=1e-5, atol=1e-5)


def test_a_unimodal_part_reads_its_own_modality_only() -> None:
    model = LateFusion(5).eval()
    batch = batch_of()
    other = Batch(batch.audio, torch.zeros_like(batch.frames), batch.label, batch.clip_id, batch.valid)
    before, after = model(batch).unimodal_logits, model(other).unimodal_logits
    assert torch.equal(before["audio"], after["audio"])
    assert not torch.equal(before["visual"], after["visual"])


def test_the_head_reads_audio_first() -> None:
    model = LateFusion(2).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[:, :512] = 1.0
        model.head.bias.zero_()
    outputs = model(batch_of())
    assert torch.equal(outputs.unimodal_logits["visual"], torch.zeros(3, 2))
    torch.testing.assert_close(outputs.unimodal_logits["audio"], outputs.logits, rtol=1e-5, atol=1e-5)


def test_features_are_the_mean_over_a_clips_frames() -> None:
    encoder = Encoder("visual").eval()
    batch = batch_of()
    single = [
        encoder(Batch(None, batch.frames[:, k : k + 1], batch.label, batch.clip_id, batch.valid)) for k in range(2)
    ]
    torch.testing.assert_close(encoder(batch), (single[0] + single[1]) / 2, rtol=1e-4, atol=1e-5)


def test_the_audio_stem_takes_one_channel_and_the_rest_is_resnet18() -> None:
    audio, visual = (sum(p.numel() for p in Encoder(modality).parameters()) for modality in MODALITIES)
    # torchvision's ResNet-18 has 11,689,512 parameters, 513,000 of them in its classifier.
    assert visual == 11_689_512 - 513_000
    assert visual - audio == 2 * 64 * 7 * 7


def test_a_width_is_that_of_the_first_stage_and_doubles_from_stage_to_stage() -> None:
    encoder = Encoder("audio", width=24)
    kernels = [parameter for parameter in encoder.parameters() if parameter.dim() == 4]
    # Of ResNet-18 as a formula of its width w, without the 1 x 49 w stem: torchvision's own parameters at w = 64.
    whole = [p for p in Encoder("audio").parameters() if p.dim() == 4]
    assert [len(kernel) * 64 for kernel in kernels] == [len(kernel) * 24 for kernel in whole]
    assert sum(p.numel() for p in kernels[1:]) * 64**2 == sum(p.numel() for p in whole[1:]) * 24**2
    assert encoder.features == 192 and encoder(batch_of()).shape == (3, 192)
    maps = encoder.stage(2, encoder.stem(batch_of()))
    assert maps.shape[2] == encoder.channels(2) == 48
    convolution = encoder.network.layer3[0].conv1.weight.detach()
    assert abs(float(convolution.std()) / (2 / (96 * 9)) ** 0.5 - 1) < 0.03  # initialized as the published width is


def test_networks_take_a_batch_without_clips() -> None:
    batch = batch_of().select(torch.empty(0, dtype=torch.long))
    for model in (LateFusion(4), Unimodal("audio", 4), Unimodal("visual", 4)):
        logits = model.train()(batch).logits
        assert logits.shape == (0, 4)
        logits.sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_initialization_is_kaiming_for_convolutions_and_xavier_for_heads() -> None:
    torch.manual_seed(0)
    model = LateFusion(100)
    convolution = model.encoders["visual"].network.layer3[0].conv1.weight.detach()
    assert abs(float(convolution.std()) / (2 / (256 * 9)) ** 0.5 - 1) < 0.02  # fan out: 256 channels of 3 x 3
    assert abs(float(model.head.weight.detach().std()) / (2 / (1024 + 100)) ** 0.5 - 1) < 0.02
    assert not model.head.bias.any()


def test_a_spectrogram_is_laid_out_once_and_every_encoder_reads_it_as_it_lies() -> None:
    """The loader gives it with the other axis first; bits do not hang on who turns it round."""
    audio = torch.randn(3, 1, 40, 32, generator=torch.Generator().manual_seed(0)).transpose(2, 3)
    clip_id = torch.arange(3)
    batch = Batch(audio=audio, frames=None, label=clip_id, clip_id=clip_id, valid=torch.ones(3, dtype=torch.bool))
    ready = prepare(batch, torch.float32)
    assert ready.audio is not None and ready.audio.data_ptr() != audio.data_ptr()
    encoder = Encoder("audio", width=8)
    own, shared = (_folded(encoder.images(each)) for each in (batch, ready))
    assert shared.data_ptr() == ready.audio.data_ptr()
    assert shared.stride() == own.stride() and torch.equal(shared, own)
    assert _folded(encoder.images(ready.select(slice(1, 3)))).data_ptr() == ready.audio[1:].data_ptr()
    assert torch.equal(encoder.eval()(ready), encoder(batch))
