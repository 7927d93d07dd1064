"""Tiny models with random weights, of the same classes as the real ones, for quick tests."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

from d3s_utils.diffusion_training import assemble_pipeline


def make_tiny_tokenizer() -> CLIPTokenizer:
    """Return a CLIP tokenizer whose words are spelt out in bytes: no merges, no download, 77 tokens at most."""
    letters = sorted(ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=77)


def make_tiny_pipeline(folder: Path | str, *, seed: int = 0) -> Path:
    """Save a StableDiffusionPipeline with random weights to `folder`, 64 px, about 1 MB, and return the folder.

    The latents are 8 x 8 with 8 channels; the scheduler predicts v with zero terminal signal-to-noise ratio.
    """
    tokenizer = make_tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                projection_dim=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=8,
            norm_num_groups=4,
            mid_block_add_attention=False,
            sample_size=64,
            scaling_factor=1.0,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=8,
            cross_attention_dim=32,
        )
    pipeline = assemble_pipeline(autoencoder=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer)
    pipeline.save_pretrained(folder)
    return Path(folder)


def make_tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """Write a CLIP with random weights and 32 pixels a side into `folder`, as transformers does; return the folder."""
    tokenizer = make_tiny_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(
        text_config={**sizes, **special, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for parameter in model.parameters():  # livelier than transformers starts them, so that pictures differ
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder
