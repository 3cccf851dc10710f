"""The DALI graphs: encoded bytes in, spectrograms or pictures out. One definition each, for the GPU and for the CPU.

With a GPU, pictures are decoded in DALI's mixed mode and spectrograms computed on the GPU (audio is always decoded on
the CPU: DALI has no other way); with device_id None all runs on the CPU. There DALI decodes and crops pictures, and
torch resizes them: DALI's horizontal resampling of 8-bit pixels on a CPU has no vector code and takes three times as
long. Inputs are handed over without a copy, so whoever feeds a pipeline keeps the arrays alive until the batch is
taken.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
from nvidia.dali import Pipeline
from nvidia.dali.plugin.pytorch import feed_ndarray
from torch import Tensor

from avbench.loading.feeds import AudioFeed, Feed, VisualFeed, stock_audio, stock_box, stock_picture
from avbench.loading.gpu import JPEG_ENGINE_SHARE
from avbench.loading.presets import AudioPreset, FilterBank, PowerSpectrogram, Stft, VisualPreset
from avbench.loading.transforms import filter_bank, power_spectrogram

# What nvJPEG keeps for each decoding thread, bytes, and the size of picture that it makes room for beforehand. Packed
# pictures are tens of kilobytes, with a shorter side of 256 pixels; DALI's own 16 and twice 8 MiB a thread, for each
# graph, come to most of a gigabyte. A larger picture takes more when it comes.
_DEVICE_PADDING, _PINNED_PADDING, _LARGEST_SIDE = 2 << 20, 1 << 20, 512
_KEPT_BUFFERS = 4  # one being filled, one waiting, one just taken by the consumer, one that it is about to let go


class FeaturePipeline:
    """A DALI pipeline that is fed batch by batch and works on up to `depth` of them at a time.

    Batches may have any size from 1 to `max_batch_size`. `take` raises RuntimeError where DALI could not decode; the
    pipeline is of no use afterwards.

    graph: given a torch.device, defines the graph and returns its one output. stock: a batch that is sure to decode;
        on a GPU as large as those to come, since nvImageCodec settles in the first how it shares out all later ones.
    inputs: names of the graph's inputs; DALI refuses data for one that the graph does not use.
    finish: makes the batch's tensor of DALI's output and the feed's `inputs()`; None where the output is that tensor.
        DALI takes its output back when `finish` returns.
    """

    def __init__(
        self,
        graph: Any,
        stock: Feed,
        *,
        inputs: Sequence[str],
        max_batch_size: int,
        threads: int,
        device: torch.device,
        depth: int,
        finish: Callable[[Any, Mapping[str, Any]], Tensor] | None = None,
    ) -> None:
        self.depth = depth
        self.device = device
        self._inputs = inputs
        self._finish = finish
        self._pipeline = Pipeline(
            batch_size=max_batch_size,
            num_threads=threads,
            device_id=(device.index or 0) if device.type == "cuda" else None,
            prefetch_queue_depth=depth,
            exec_dynamic=True,  # so that outputs may be kept: the older executor overwrites them
            seed=0,  # nothing in the graphs is random
        )
        with self._pipeline:
            self._pipeline.set_outputs(graph(device))
        self._pipeline.build()
        self._fed: deque[dict[str, Any]] = deque()  # keeps the arrays alive that DALI reads
        self._warm_up(stock)

    def _warm_up(self, stock: Feed) -> None:
        """Run the first `depth` batches, which DALI starts all at once; from here on one call starts one batch."""
        for _ in range(self.depth):
            self._put_inputs(stock)
        self._pipeline.schedule_run()
        for _ in range(self.depth):
            self.take()

    @property
    def in_flight(self) -> int:
        """Batches fed and not yet taken."""
        return len(self._fed)

    def feed(self, feed: Feed) -> None:
        """Start work on a batch; returns at once."""
        self._put_inputs(feed)
        self._pipeline.schedule_run()

    def take(self) -> Tensor:
        """Wait for the oldest batch; a tensor of [N, ...] that is the caller's own, on the pipeline's device.

        On a GPU it is complete for what comes next on the current stream; this thread waits for no kernel.
        """
        # Of torch's: None is the CPU's, or the host, which waits.
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        (output,) = self._pipeline.share_outputs(cuda_stream=stream)
        try:
            if self._finish is not None:
                return self._finish(output, self._fed[0])
            if stream is None:
                return torch.from_dlpack(output.as_tensor())
            return _copied(output.as_tensor(), stream)
        finally:
            self._pipeline.release_outputs()
            self._fed.popleft()

    def drain(self) -> None:
        """Wait for all that was fed and throw it away."""
        while self._fed:
            self.take()

    def _put_inputs(self, feed: Feed) -> None:
        inputs = feed.inputs()
        for name in self._inputs:
            self._pipeline.feed_input(name, inputs[name])
        self._fed.append(inputs)


def _copied(output: Any, stream: torch.cuda.Stream) -> Tensor:
    """DALI's tensor in torch's own memory: the one copy on a GPU, on the stream that the output was bound to.

    DALI's stream is made to wait for the copy, so the memory is not written to before. Through dlpack DALI would keep
    each batch until a `cudaDeviceSynchronize` of its own, which waits for training's kernels too.
    """
    tensor = torch.empty(output.shape(), dtype=torch.float32, device=stream.device)
    return feed_ndarray(output, tensor, cuda_stream=stream)


Resampling = Literal["none", "decimation", "interpolation"]


def resampling_of(rates_hz: np.ndarray, wanted_hz: int) -> Resampling:
    """How sound at any of these rates comes to the wanted one, by one graph.

    "decimation": every rate is a multiple, so after the low-pass filter every so-many-th sample is kept, which is what
    interpolating there would give, at a quarter of the time.
    """
    if (rates_hz == wanted_hz).all():
        return "none"
    return "decimation" if (rates_hz % wanted_hz == 0).all() else "interpolation"


def audio_pipeline(preset: AudioPreset, *, resampling: Resampling, **options: Any) -> FeaturePipeline:
    """Encoded audio -> what `finish_audio` wants.

    Of an Stft powers |X|^2 or mel powers, time first: float32 [B, T, F]; of the other transforms the samples that enter
    them, float32 [B, samples].

    resampling: of the clips it is to be fed, see `resampling_of`.
    """
    moves, repeats = preset.window != "first", preset.short == "repeat"

    def graph(device: torch.device) -> Any:
        encoded = _input("encoded", types.UINT8, 1)
        waveform, _ = fn.decoders.audio(encoded, dtype=types.FLOAT, downmix=True)
        start: Any = [0]
        if resampling != "none":
            waveform = _resampled(waveform, preset, resampling)
            start = _input("skip", types.INT32, 1)
        elif moves:
            start = _input("start", types.INT32, 1)
        if repeats:
            waveform = _repeated(_slice(waveform, start, _input("length", types.INT32, 1)))
            start = [0]
        waveform = _slice(waveform, start, [preset.samples])
        if device.type == "cuda":
            waveform = waveform.gpu()
        return _powers(waveform, preset) if isinstance(preset.transform, Stft) else waveform

    # On a CPU one is enough, and a batch of them would take longer than building the graph.
    clips = options["max_batch_size"] if options["device"].type == "cuda" else 1
    rates_hz, samples = np.full(clips, preset.sample_rate_hz), np.full(clips, preset.samples)
    stock = AudioFeed([stock_audio(preset)] * clips, rates_hz, samples, np.zeros(clips, np.int64), preset)
    inputs = ["encoded"]
    if resampling != "none":
        inputs += ["low_pass", "read_from", "skip"]
        inputs += ["read_whole", "rows"] if resampling == "decimation" else ["read", "sample_rate"]
    elif moves:
        inputs += ["start"]
    if repeats:
        inputs += ["length", "copies"]
    return FeaturePipeline(graph, stock, inputs=inputs, **options)


def _slice(waveform: Any, start: Any, shape: Any) -> Any:
    """Samples of a waveform, zeros where it has none."""
    return fn.slice(waveform, start=start, shape=shape, axes=[0], out_of_bounds_policy="pad", fill_values=[0.0])


def _repeated(waveform: Any) -> Any:
    """A waveform as often as its column of zeros, the input `copies`, is long: DALI has no operator that repeats."""
    rows = fn.reshape(waveform, shape=[1, -1]) + _input("copies", types.FLOAT, 2)
    return fn.reshape(rows, shape=[-1])


def _resampled(waveform: Any, preset: AudioPreset, resampling: Resampling) -> Any:
    """The part of a waveform of any rate that the preset wants, at the preset's rate, with margins."""
    decimates = resampling == "decimation"
    read = _input("read_whole" if decimates else "read", types.INT32, 1)
    waveform = _slice(waveform, _input("read_from", types.INT32, 1), read)
    # DALI's resampling interpolates only: what lies above the lower of the two Nyquist rates would fold back.
    row = fn.reshape(waveform, shape=[1, -1], layout="HW")
    row = fn.filter(row, _input("low_pass", types.FLOAT, 2), np.float32(0), border="constant")
    if decimates:
        rows = fn.reshape(row, shape=_input("rows", types.INT32, 1), layout="HW")
        return fn.reshape(fn.slice(rows, start=[0], shape=[1], axes=[1]), shape=[-1], layout="t")
    waveform = fn.reshape(row, shape=[-1], layout="t")
    sample_rate = _input("sample_rate", types.FLOAT, 0)
    return fn.audio_resample(waveform, in_rate=sample_rate, out_rate=float(preset.sample_rate_hz))


def _powers(waveform: Any, preset: AudioPreset) -> Any:
    transform = preset.transform
    assert isinstance(transform, Stft)
    spectrogram = fn.spectrogram(
        waveform,
        nfft=transform.n_fft,
        window_length=transform.n_fft,
        window_step=transform.hop_length,
        # DALI's own Hann window is half a sample off torch's periodic one, 0.4 % of the maximum.
        window_fn=torch.hann_window(transform.n_fft).tolist(),
        power=2,  # the root is cheaper in torch
        layout="tf",  # about twice as fast as "ft"
    )
    if not transform.mel_bins:
        return spectrogram
    return fn.mel_filter_bank(
        spectrogram,
        sample_rate=float(preset.sample_rate_hz),
        nfilter=transform.mel_bins,
        freq_low=0.0,
        freq_high=transform.mel_high_hz,
        mel_formula="htk",
        normalize=False,
    )


def audio_buffers(preset: AudioPreset, clips: int) -> Buffers:
    """Memory for `finish_audio` on batches of up to so many clips."""
    return Buffers((clips, preset.steps, preset.transform.bins))


def finish_audio(decoded: Tensor, feed: AudioFeed, *, buffers: Buffers) -> Tensor:
    """What the network sees, [B, 1, *preset.shape], of the audio graph's output for this feed.

    On the CPU it is in one of `buffers`, so that DALI has its memory back at once; on a GPU an Stft is in place. But
    for a FilterBank it is a transposed view.
    """
    preset = feed.preset
    if decoded.device.type == "cpu":
        # In NumPy: torch would start a team of OpenMP threads for the loader's thread, against the one that trains.
        values = buffers.take(len(decoded))
        if isinstance(preset.transform, Stft):
            _finish_stft(decoded.numpy(), preset.transform, out=values)
        else:
            for waveform, steps, row in zip(decoded.numpy(), feed.steps, values, strict=True):
                row[...] = _transformed(waveform, steps, preset)
        finished = torch.from_numpy(values)
    elif isinstance(preset.transform, Stft):
        finished = _finish_stft_in_place(decoded, preset.transform)
    else:
        finished = _transformed(decoded, feed.steps, preset)
    return (finished if isinstance(preset.transform, FilterBank) else finished.transpose(1, 2)).unsqueeze(1)


def _finish_stft(powers: np.ndarray, transform: Stft, *, out: np.ndarray) -> None:
    """Root and logarithm of powers, as the transform has them."""
    magnitudes = powers
    if not transform.mel_bins:
        magnitudes = np.sqrt(powers, out=out)
    if transform.log_offset is not None:
        np.add(magnitudes, np.float32(transform.log_offset), out=out)
        np.log(out, out=out)


def _finish_stft_in_place(powers: Tensor, transform: Stft) -> Tensor:
    if not transform.mel_bins:
        powers.sqrt_()
    if transform.log_offset is not None:
        powers.add_(transform.log_offset).log_()
    return powers


def _transformed(waveforms: Any, steps: Any, preset: AudioPreset) -> Any:
    """A transform that DALI does not have, of one waveform in NumPy or of a batch in torch: [..., T, F]."""
    if isinstance(preset.transform, FilterBank):
        return filter_bank(waveforms, steps, preset.transform, preset.sample_rate_hz)
    assert isinstance(preset.transform, PowerSpectrogram)
    return power_spectrogram(waveforms, preset.transform, preset.sample_rate_hz)


def visual_pipeline(
    preset: VisualPreset, *, jpeg_engine_share: float = JPEG_ENGINE_SHARE, **options: Any
) -> FeaturePipeline:
    """JPEGs -> normalized crops, float32 [N, H, W, 3]; only the part of a picture that a box covers is decoded.

    jpeg_engine_share: see loading.gpu.JPEG_ENGINE_SHARE.
    """
    on_gpu = options["device"].type == "cuda"
    of_gpu: dict[str, Any] = {
        "hw_decoder_load": jpeg_engine_share,
        "affine": False,  # DALI would bind its threads to cores of its own choice, on every rank to the same ones
        "device_memory_padding": _DEVICE_PADDING,
        "host_memory_padding": _PINNED_PADDING,
        "preallocate_width_hint": _LARGEST_SIDE,
        "preallocate_height_hint": _LARGEST_SIDE,
    }

    def graph(device: torch.device) -> Any:
        encoded = _input("encoded", types.UINT8, 1)
        start, shape = (_input(name, types.INT32, 1) for name in ("start", "shape"))
        crops = fn.decoders.image_slice(
            encoded,
            start=start,
            shape=shape,
            axes=[1, 0],
            device="mixed" if on_gpu else "cpu",
            jpeg_fancy_upsampling=True,  # the GPU's decoder then upsamples colour as the CPU's does
            output_type=types.RGB,
            **(of_gpu if on_gpu else {}),
        )
        if not on_gpu:
            return crops
        flip = _input("flip", types.INT32, 0)
        resized = fn.resize(crops, size=[preset.height, preset.width], interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.crop_mirror_normalize(
            resized,
            mirror=flip,
            dtype=types.FLOAT,
            output_layout="HWC",
            mean=[255 * value for value in preset.mean],
            std=[255 * value for value in preset.deviation],
        )

    pictures = options["max_batch_size"] if on_gpu else 1
    boxes = np.repeat(stock_box()[None], pictures, axis=0)
    stock = VisualFeed([stock_picture()] * pictures, boxes, np.zeros(pictures, bool))
    inputs = ("encoded", "start", "shape", *(("flip",) if on_gpu else ()))
    finish = None if on_gpu else _Resizing(preset, options["max_batch_size"])
    return FeaturePipeline(graph, stock, inputs=inputs, finish=finish, **options)


class _Resizing:
    """Crops, uint8 [height, width, 3] each, to a batch as the network sees it, float32 [N, H, W, 3]; on the CPU."""

    def __init__(self, preset: VisualPreset, max_batch_size: int) -> None:
        self._size = (preset.height, preset.width)
        self._buffers = Buffers((max_batch_size, preset.height, preset.width * 3))
        deviation = np.array(preset.deviation)
        # For a whole row of pixels: NumPy is slow where the innermost axis is short.
        self._scale = np.tile(1 / (255 * deviation), preset.width).astype(np.float32)
        self._shift = np.tile(-np.array(preset.mean) / deviation, preset.width).astype(np.float32)

    def __call__(self, crops: Any, inputs: Mapping[str, Any]) -> Tensor:
        """crops: DALI's list of them; inputs: of the VisualFeed."""
        batch = self._buffers.take(len(crops))
        for crop, flip, rows in zip(crops, inputs["flip"].tolist(), batch, strict=True):
            rows[...] = self._resized(crop, flip).reshape(rows.shape)
            # In NumPy, as in finish_audio; picture by picture, while it is in the processor's cache.
            rows *= self._scale
            rows += self._shift
        return torch.from_numpy(batch).view(len(batch), *self._size, 3)

    def _resized(self, crop: Any, flip: bool) -> np.ndarray:
        """uint8 [H, W, 3]."""
        # First the batch's axis, then the permutation: so torch sees channels last, for which it has vector code.
        picture = torch.from_dlpack(crop).unsqueeze(0).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(picture, self._size, mode="bilinear", antialias=True)
        flipped = resized.flip(-1) if flip else resized
        return flipped[0].permute(1, 2, 0).contiguous().numpy()


class Buffers:
    """Float32 arrays of one shape, used again once nothing refers to them: new memory for a batch costs page faults.

    Used in turn, so that the memory they take is the same from the first epoch on, however the consumer keeps up. One
    that keeps more batches than usual gets more arrays, which are given up afterwards.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        # Memory that nobody has written to yet takes no room.
        arrays = [np.empty(shape, np.float32) for _ in range(_KEPT_BUFFERS)]
        self._free: deque[np.ndarray] = deque(arrays, maxlen=_KEPT_BUFFERS)

    def take(self, count: int) -> np.ndarray:
        """The first `count` rows of an array, uninitialized; the array is free again when this very view dies.

        A tensor made of the view by `torch.from_numpy` keeps it alive, as do all tensors that share its memory; another
        view made by NumPy does not.
        """
        whole = self._free.popleft() if self._free else np.empty(self._shape, np.float32)
        rows = whole[:count]
        weakref.finalize(rows, self._free.append, whole).atexit = False
        return rows


def finish_frames(pictures: Tensor, *, frames: int) -> Tensor:
    """The visual graph's [B * K, H, W, 3] as a view [B, K, 3, H, W], channels last in memory."""
    return pictures.unflatten(0, (-1, frames)).permute(0, 1, 4, 2, 3)


def _input(name: str, dtype: Any, ndim: int) -> Any:
    return fn.external_source(name=name, dtype=dtype, ndim=ndim, batch=True, no_copy=True)
