"""The bundled text-to-image model: its parts, its training on latents, and the diffusers folder it becomes."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from d3s_utils.autoencoder_training import make_autoencoder
from d3s_utils.checkpoints import steps_done, train_with_checkpoints
from d3s_utils.decoded_critic import DecodedCritic
from d3s_utils.devices import choose_device
from d3s_utils.pipelines import load_pipeline
from d3s_utils.png_files import write_png
from d3s_utils.randomness import numpy_generator, torch_generator
from d3s_utils.taxonomy import BACKGROUNDS, imagenet_classes, object_prompt, scene_prompt
from d3s_utils.training_pictures import varied_caption


def make_tokenizer(*, words: int = 4096, longest: int = 64) -> CLIPTokenizer:
    """Return a CLIP tokenizer whose byte-pair vocabulary comes from the names and glosses of the 1000 classes.

    Args:
        words: Size of the vocabulary.
        longest: Tokens a prompt may have, with its start and end.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        # Every byte can end a word. Named here, such pieces get fixed places; the trainer's own order is random.
        special_tokens=["<|startoftext|>", "<|endoftext|>", *(letter + "</w>" for letter in letters)],
        end_of_word_suffix="</w>",
        initial_alphabet=letters,
        show_progress=False,
    )
    prompts = [object_prompt(c, background=b) for c in imagenet_classes() for b in ("grass", "night")]
    prompts += [scene_prompt(b) for b in BACKGROUNDS] * 50
    trained.train_from_iterator(prompts, trainer)
    return _clip_tokenizer(trained, longest)


def _clip_tokenizer(trained: Tokenizer, longest: int) -> CLIPTokenizer:
    byte_pairs = json.loads(trained.to_str())["model"]
    vocabulary, merges = byte_pairs["vocab"], [tuple(pair) for pair in byte_pairs["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=longest)


def make_text_encoder(tokenizer: CLIPTokenizer, *, width: int = 160, layers: int = 2) -> CLIPTextModel:
    """Return an untrained CLIP text encoder; its hidden states have shape (n, tokens, `width`)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_unet(
    *, channels: tuple[int, ...] = (64, 128, 128), latent_channels: int = 8, text_width: int = 160, side: int = 16
) -> UNet2DConditionModel:
    """Return an untrained U-Net that reads the text twice: by cross-attention, and pooled beside the time step.

    The pooled reading (diffusers' `addition_embed_type="text"`) is what lets so small a model learn its classes. The
    finest level has no attention, which is where most of the time would go.
    """
    attended = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * attended,
        up_block_types=("CrossAttnUpBlock2D",) * attended + ("UpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=[width // 32 for width in channels],
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    ).to(memory_format=torch.channels_last)


def make_scheduler() -> DDIMScheduler:
    """Return the noise schedule: v-prediction with zero terminal signal (Lin et al. 2023, arXiv:2305.08891)."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def assemble_pipeline(
    *, autoencoder: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """Return the parts as one pipeline with `make_scheduler`'s; it holds them, so training them trains the pipeline."""
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_to_train(start_from: str | Path = "", *, device: str = "cpu") -> StableDiffusionPipeline:
    """Return the bundled model's architecture with random weights, or a trained pipeline to go on from.

    Args:
        start_from: Nothing for random weights (`torch.manual_seed` decides them), or as in `load_pipeline`. Its own
            schedule is replaced by `make_scheduler`'s: only models of this project's kind go on sensibly.
        device: See `devices.choose_device`.

    Raises:
        PipelineError: If `start_from` cannot be loaded.
    """
    if start_from:
        loaded = load_pipeline(start_from, device=device, precision="float32").text_to_image
        parts = {"autoencoder": loaded.vae, "unet": loaded.unet, "text_encoder": loaded.text_encoder}
        return assemble_pipeline(tokenizer=loaded.tokenizer, **parts)
    tokenizer = make_tokenizer()
    parts = {"autoencoder": make_autoencoder(), "unet": make_unet(), "text_encoder": make_text_encoder(tokenizer)}
    return assemble_pipeline(tokenizer=tokenizer, **parts).to(choose_device(device))


@dataclass(frozen=True)
class Latents:
    """Encoded pictures: mean and standard deviation, float16, shape (n, channels, side, side)."""

    mean: torch.Tensor
    deviation: torch.Tensor

    @property
    def scale(self) -> float:
        """The factor that brings the latents' standard deviation to one."""
        second_moment = (self.mean.float().square() + self.deviation.float().square()).mean()
        return float((second_moment - self.mean.float().mean().square()).rsqrt())


@torch.inference_mode()
def encode_pictures(autoencoder: AutoencoderKL, pixels: np.ndarray, *, batch_size: int = 128) -> Latents:
    """Return the latents of uint8 pictures, shape (n, h, w, 3)."""
    means, deviations = [], []
    for start in tqdm(range(0, len(pixels), batch_size), desc="encoding", mininterval=10):
        batch = torch.from_numpy(pixels[start : start + batch_size]).permute(0, 3, 1, 2).float() / 127.5 - 1
        batch = batch.to(autoencoder.device, memory_format=torch.channels_last)
        posterior = autoencoder.encode(batch).latent_dist
        means.append(posterior.mean.half().cpu())
        deviations.append(posterior.std.half().cpu())
    return Latents(torch.cat(means).clone(), torch.cat(deviations).clone())


def sampling_weights(
    table: pd.DataFrame, *, kind_shares: dict[str, float], main_synsets: list[str], main_share: float
) -> np.ndarray:
    """Return how often each training picture is drawn, summing to one.

    Kinds get `kind_shares`; within objects and composites, `main_synsets` together get `main_share` and classes of
    either group are balanced; within scenes, backgrounds are.

    Args:
        table: `TrainingPictures.table`.
        kind_shares: Share of each kind; they sum to one.

    Raises:
        ValueError: If a kind is missing from the table or the shares do not sum to one.
    """
    if abs(sum(kind_shares.values()) - 1) > 1e-6:
        raise ValueError(f"kind_shares must sum to 1, got {sum(kind_shares.values())}")
    weights = np.zeros(len(table))
    for kind, share in kind_shares.items():
        rows = (table["kind"] == kind).to_numpy()
        if not rows.any():
            raise ValueError(f"kind_shares names {kind!r}, of which there are no pictures")
        if kind == "scene":
            groups = [(rows, "background", 1.0)]
        else:
            main = table["synset"].isin(main_synsets).to_numpy()
            groups = [(rows & main, "synset", main_share), (rows & ~main, "synset", 1 - main_share)]
            groups = [group for group in groups if group[0].any()]
        total = sum(part for _, _, part in groups)
        for members, column, part in groups:
            labels = table.loc[members, column]
            counts = labels.map(labels.value_counts()).to_numpy()
            weights[members] = share * part / total / counts / labels.nunique()
    return weights


def train_diffusion(
    pipeline: StableDiffusionPipeline,
    latents: Latents,
    table: pd.DataFrame,
    *,
    steps: int,
    checkpoint: Path,
    seed: int,
    weights: np.ndarray,
    batch_size: int = 32,
    learning_rate: float = 4e-4,
    text_dropout: float = 0.1,
    critic: DecodedCritic | None = None,
    compiled: bool = False,
    checkpoint_every: int = 100,
) -> Iterator[dict]:
    """Train U-Net and text encoder together to predict v (Salimans & Ho 2022, arXiv:2202.00512).

    On a GPU the two compute in bfloat16; the weights stay in float32.

    Args:
        pipeline: Its autoencoder's `scaling_factor` scales the latents.
        latents: Of the pictures that `table` (`TrainingPictures.table`) describes.
        weights: `sampling_weights`.
        text_dropout: Share of pictures whose prompt is empty (classifier-free guidance).
        critic: Looks at the decoded predictions of the first `critic.pictures` of each step, and is trained along.
        compiled: Compile the U-Net first: minutes that pay on a GPU.

    Yields:
        Records of `train_with_checkpoints`.
    """
    unet, text_encoder, scale = pipeline.unet, pipeline.text_encoder, pipeline.vae.config.scaling_factor
    device = unet.device
    denoise = torch.compile(unet) if compiled else unet
    cumulative = make_scheduler().alphas_cumprod.float()
    edges = np.cumsum(weights)
    synsets, backgrounds = table["synset"].to_list(), table["background"].to_list()
    class_of = {label.synset: label.index for label in imagenet_classes()}
    seen = min(critic.pictures, batch_size) if critic else 0

    def loss_at_step(step: int) -> torch.Tensor:
        random = numpy_generator(seed, "diffusion", step)
        rows = np.minimum(np.searchsorted(edges, random.random(batch_size) * edges[-1]), len(edges) - 1)
        silent = random.random(batch_size) < text_dropout
        texts = [
            "" if none else varied_caption(synsets[row], backgrounds[row], random)
            for row, none in zip(rows, silent, strict=True)
        ]
        distinct = sorted(set(texts))
        tokens = pipeline.tokenizer(distinct, padding="max_length", truncation=True, return_tensors="pt").input_ids
        noise_generator = torch_generator(seed, "diffusion noise", step)
        mean, deviation = latents.mean[rows].float(), latents.deviation[rows].float()
        clean = scale * (mean + deviation * torch.randn(mean.shape, generator=noise_generator))
        noise = torch.randn(clean.shape, generator=noise_generator)
        times = torch.randint(0, len(cumulative), (batch_size,), generator=noise_generator)
        if seen:
            times[:seen] = torch.randint(critic.earliest, len(cumulative), (seen,), generator=noise_generator)
        signal = cumulative[times].sqrt()[:, None, None, None]
        sigma = (1 - cumulative[times]).sqrt()[:, None, None, None]
        noisy, target = signal * clean + sigma * noise, signal * noise - sigma * clean
        noisy = noisy.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = text_encoder(tokens.to(device)).last_hidden_state
            predicted = denoise(noisy, times.to(device), hidden[[distinct.index(text) for text in texts]]).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), target.to(device))
        if seen:
            shown = signal[:seen].to(device) * noisy[:seen] - sigma[:seen].to(device) * predicted[:seen].float()
            named = [None if none else class_of.get(synsets[row]) for row, none in zip(rows, silent, strict=True)]
            loss = loss + critic(shown, clean[:seen].to(device), named[:seen], step=step)
        return loss

    modules = {"unet": unet, "text_encoder": text_encoder} | ({"critic": critic} if critic else {})
    yield from train_with_checkpoints(
        modules,
        loss_at_step,
        steps=steps,
        learning_rate=learning_rate,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        description="diffusion",
    )


def draw_while_training(
    records: Iterable[dict],
    pipeline: StableDiffusionPipeline,
    *,
    prompts: list[str],
    every: int,
    checkpoint: Path,
    folder: Path,
    seed: int,
    steps: int = 20,
    guidance_scale: float = 4.0,
) -> Iterator[dict]:
    """Pass `train_diffusion`'s records on, and dream `prompts` each time that `every` more steps are done.

    Each time with the same noise, so that only the training differs; with the weights as they are, before averaging. A
    run that is resumed keeps the pictures that it has, and draws none for steps that are behind it.

    Args:
        pipeline: The one that is trained.
        checkpoint: The one that `train_diffusion` goes on from.
        folder: Where ``step_<number>.png`` goes, the pictures side by side.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = steps_done(checkpoint) // every
    for record in records:
        if record["step"] // every > drawn:
            drawn = record["step"] // every
            noise = [torch_generator(seed, "sample", i) for i in range(len(prompts))]
            images = pipeline(prompts, num_inference_steps=steps, guidance_scale=guidance_scale, generator=noise).images
            write_png(folder / f"step_{record['step']:06d}.png", np.hstack([np.asarray(image) for image in images]))
        yield record


def save_pipeline(folder: Path, pipeline: StableDiffusionPipeline) -> Path:
    """Save a pipeline as a folder that diffusers loads unchanged, and return the folder.

    U-Net and autoencoder are stored in half precision, which diffusers loads as float32. The text encoder is not:
    transformers would load it as it lies, and half and single precision do not mix. No file tells what folder a part
    was loaded from or how it was used since, so the same weights give the same files.
    """
    tokenizer = pipeline.tokenizer
    pipeline.register_modules(tokenizer=_clip_tokenizer(tokenizer.backend_tokenizer, tokenizer.model_max_length))
    parts = (pipeline.vae, pipeline.unet)
    for part in parts:
        part.register_to_config(_name_or_path="")
        part.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    for part in parts:
        part.float()
    return folder
