"""The bundled model's parts, its pictures and its training."""

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image
from scipy.stats import binomtest
from transformers import CLIPTokenizer

from d3s_utils import training_pictures
from d3s_utils.autoencoder_training import make_autoencoder, photo_batch, reconstruct, train_autoencoder
from d3s_utils.diffusion_training import (
    Latents,
    draw_while_training,
    encode_pictures,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    sampling_weights,
    save_pipeline,
    train_diffusion,
)
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import imagenet_classes, object_prompt
from d3s_utils.training_photos import SPLITS, make_scenes, read_photos, split_of
from d3s_utils.training_pictures import (
    caption,
    composite_pictures,
    cut_out_objects,
    frame_object,
    gather_training_pictures,
)

LION, ORGAN = "n02129165", "n03854065"


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return make_tokenizer()


def tiny_autoencoder():
    torch.manual_seed(0)
    return make_autoencoder(channels=(16, 16, 16))


def tiny_unet():
    return make_unet(channels=(32, 32, 32), text_width=32)


def test_splits_hang_on_bytes_alone_and_have_their_shares():
    counts = pd.Series([split_of(str(i).encode()) for i in range(40_000)]).value_counts()
    for name, share in SPLITS.items():
        assert binomtest(int(counts[name]), 40_000, share).pvalue > 1e-3
    assert split_of(b"photo") == split_of(b"photo")


def test_photos_come_from_a_folder_named_by_class_or_background(tmp_path):
    random = numpy_generator(0, "photos")
    for name in ("lion", ORGAN, "grass"):
        (tmp_path / name).mkdir()
        for i in range(2):
            pixels = random.integers(0, 255, (50, 90, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    (tmp_path / "lion" / "broken.png").write_bytes(b"no picture")
    table, pixels = read_photos(tmp_path)
    assert pixels.shape == (6, 64, 64, 3)
    assert sorted(table["synset"]) == ["", "", LION, LION, ORGAN, ORGAN]
    assert set(table.loc[table["synset"] == "", "class_name"]) == {"grass"}


def test_every_class_fits_into_the_tokenizer_and_comes_back(tokenizer, tmp_path):
    prompts = [object_prompt(c, background="night") for c in imagenet_classes()]
    assert max(len(ids) for ids in tokenizer(prompts).input_ids) <= tokenizer.model_max_length
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again(prompts[:50]).input_ids == tokenizer(prompts[:50]).input_ids
    unseen = "A Zebra-Café, 雪"
    assert tokenizer.unk_token_id not in tokenizer(unseen).input_ids[1:-1]
    assert make_tokenizer().get_vocab() == tokenizer.get_vocab(), "the vocabulary must not change from run to run"


def test_the_schedule_ends_in_pure_noise():
    scheduler = make_scheduler()
    assert scheduler.alphas_cumprod[-1] == pytest.approx(0, abs=1e-8)
    assert (scheduler.alphas_cumprod[1:] < scheduler.alphas_cumprod[:-1]).all()
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999


def test_latents_are_scaled_to_unit_variance():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(400, 4, 8, 8, generator=generator) * 3 + 1
    latents = Latents(mean.half(), torch.full_like(mean, 0.5).half())
    sampled = latents.scale * (mean + 0.5 * torch.randn(mean.shape, generator=generator))
    assert sampled.std().item() == pytest.approx(1, abs=0.02)


def test_sampling_weights_balance_kinds_classes_and_backgrounds():
    table = pd.DataFrame({
        "kind": ["object"] * 5 + ["scene"] * 3 + ["composite"] * 2,
        "synset": ["a", "a", "a", "b", "c"] + [""] * 3 + ["a", "b"],
        "background": [""] * 5 + ["snow", "snow", "cave"] + ["snow", "cave"],
    })  # fmt: skip
    weights = sampling_weights(
        table, kind_shares={"object": 0.5, "scene": 0.2, "composite": 0.3}, main_synsets=["a", "b"], main_share=0.8
    )
    assert weights.sum() == pytest.approx(1)
    assert weights[:3].sum() == pytest.approx(0.5 * 0.8 / 2) == pytest.approx(weights[3])
    assert weights[4] == pytest.approx(0.5 * 0.2)
    assert weights[5:7].sum() == pytest.approx(weights[7]) == pytest.approx(0.1)
    assert weights[8:].sum() == pytest.approx(0.3)
    with pytest.raises(ValueError, match="kind_shares must sum to 1"):
        sampling_weights(table, kind_shares={"object": 0.5}, main_synsets=[], main_share=0.5)


def test_crops_repeat_by_step_and_stay_inside():
    photos = torch.arange(2 * 3 * 64 * 64).reshape(2, 3, 64, 64).to(torch.uint8)
    first, second = (photo_batch(photos, size=5, crop=32, seed=0, step=7) for _ in range(2))
    assert first.shape == (5, 3, 32, 32)
    assert torch.equal(first, second)
    assert first.min() >= -1
    assert first.max() <= 1
    assert not torch.equal(first, photo_batch(photos, size=5, crop=32, seed=0, step=8))


def labelled_photos(labels: list[str], size: int = 6) -> tuple[pd.DataFrame, np.ndarray]:
    """Photos with a bright disc in the middle of a place of one colour, all of split "generator"."""
    random = numpy_generator(0, "labelled")
    rows, pixels = np.mgrid[:64, :64], []
    disc = np.hypot(rows[0] - 32, rows[1] - 32) < 18
    for _ in range(len(labels) * size):
        photo = np.full((64, 64, 3), random.integers(40, 120, 3)) + random.integers(-8, 8, (64, 64, 1))
        photo[disc] = [230, 180, 90]
        pixels.append(photo.clip(0, 255).astype(np.uint8))
    names = np.repeat(labels, size)
    synsets = [name if name.startswith("n0") else "" for name in names]
    table = pd.DataFrame({"synset": synsets, "class_name": names, "in9": "carnivore", "split": "generator"})
    table["bbox_xyxy"] = [(14, 14, 50, 50)] * len(names)
    return table, np.stack(pixels)


BACKGROUND_NAMES = ["grass", "road", "forest", "water", "sand", "indoors", "snow", "rain", "night", "cave"]


def test_masks_lie_in_zero_to_one_and_cover_the_object():
    table, pixels = labelled_photos([LION])
    masks, rows = cut_out_objects(table, pixels)
    assert len(masks) == len(rows) == 6
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert masks[:, 32, 32] == pytest.approx(1)
    assert masks[:, :10].max() == 0


def test_a_composite_shows_the_object_and_the_scene():
    table, pixels = labelled_photos([LION])
    masks, rows = cut_out_objects(table, pixels)
    scenes = np.full((10, 64, 64, 3), (40, 60, 200), np.uint8)
    made = composite_pictures(
        pixels[rows], masks, table["synset"].to_numpy()[rows], scenes, np.array(BACKGROUND_NAMES),
        weights=np.ones(len(rows)), count=20, seed=0,
    )  # fmt: skip
    assert made.table["background"].value_counts().eq(2).all()
    grass = made.pixels[0].reshape(-1, 3).astype(int)
    assert (np.abs(grass - [230, 180, 90]).sum(1) < 60).mean() > 0.1, "the object must be seen"
    assert (np.abs(grass - [40, 60, 200]).sum(1) < 10).mean() > 0.1, "the scene must be seen"


def test_pictures_are_gathered_from_the_generators_photos_alone():
    objects, scenes = labelled_photos([LION, ORGAN]), labelled_photos(BACKGROUND_NAMES)
    objects[0].loc[objects[0].index[0], "split"] = "test"
    pictures = gather_training_pictures(
        objects, scenes, synsets=[LION, ORGAN], per_background=2, composites=20, copies=2, seed=0
    )
    assert pictures.table["kind"].value_counts().to_dict() == {"object": 22, "scene": 20, "composite": 20}
    assert len(pictures.pixels) == len(pictures.table)
    with pytest.raises(ValueError, match="got none of n01443537"):
        gather_training_pictures(objects, scenes, synsets=["n01443537"], seed=0)


def test_only_photos_that_show_their_class_are_learnt_from(monkeypatch):
    objects, scenes = labelled_photos([LION, ORGAN]), labelled_photos(BACKGROUND_NAMES)
    order = np.arange(12) / 12  # the last photos of each class are the best
    monkeypatch.setattr(training_pictures, "recognisability", lambda pictures, synsets: order)
    options = {"synsets": [LION, ORGAN], "per_background": 2, "composites": 20, "copies": 1, "seed": 0}
    pictures = gather_training_pictures(objects, scenes, kept_share=0.5, **options)
    shown = pictures.pixels[(pictures.table["kind"] == "object").to_numpy()]
    np.testing.assert_array_equal(shown, objects[1][[3, 4, 5, 9, 10, 11]])


def test_a_frame_holds_the_object_and_magnifies_it_within_bounds():
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[30:50, 4:24] = 255
    random = numpy_generator(0, "frame")
    for _ in range(20):
        framed = frame_object(photo, (4, 30, 23, 49), random)
        assert framed.shape == photo.shape
        assert (framed > 127).mean() == pytest.approx(20 * 20 / 38**2, rel=0.1), "magnified by 64 / 38 at most"
    whole = frame_object(photo, (0, 0, 63, 63), random)
    np.testing.assert_array_equal(whole, photo)


def test_a_background_without_photos_is_named():
    with pytest.raises(ValueError, match="got none of 'grass'"):
        make_scenes(np.zeros((1, 64, 64, 3), np.uint8), np.array(["barn"]), per_background=1, seed=0)


def test_captions_have_the_form_of_d3s_with_and_without_gloss():
    assert caption("", "snow") == "a photo of a scene, in snow"
    assert caption(LION, "", gloss=False) == "a photo of a lion"
    assert caption(LION, "snow", gloss=False) == "a photo of a lion, in snow"
    assert caption(LION, "snow").startswith("a photo of a lion, large")


def test_the_loss_falls_and_a_checkpoint_resumes_to_the_same_weights(tokenizer, tmp_path):
    table, pixels = labelled_photos([LION, ORGAN])
    photos = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    autoencoder = tiny_autoencoder()
    options = {"steps": 60, "seed": 0, "batch_size": 8, "perceptual_weight": 0.0, "checkpoint_every": 20}
    records = list(train_autoencoder(autoencoder, photos, checkpoint=tmp_path / "a.pt", **options))
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    encoder = {name: value.clone() for name, value in autoencoder.encoder.state_dict().items()}
    list(train_autoencoder(autoencoder, photos, checkpoint=tmp_path / "d.pt", freeze_encoder=True, **options))
    assert all(torch.equal(value, encoder[name]) for name, value in autoencoder.encoder.state_dict().items())

    latents = encode_pictures(autoencoder, pixels)
    pictures = pd.DataFrame({"kind": "object", "synset": table["synset"], "background": ""})
    results = []
    for cut in (0, 1):
        torch.manual_seed(0)
        text_encoder, unet = make_text_encoder(tokenizer, width=32, layers=1), tiny_unet()
        options = {"steps": 40, "seed": 0, "batch_size": 8, "checkpoint_every": 10, "learning_rate": 2e-3,
                   "weights": np.ones(len(pictures)), "checkpoint": tmp_path / f"u{cut}.pt"}  # fmt: skip
        run = train_diffusion(unet, text_encoder, tokenizer, latents, pictures, **options)
        if cut:
            next(run), run.close()
            torch.manual_seed(1)
            text_encoder, unet = make_text_encoder(tokenizer, width=32, layers=1), tiny_unet()
            run = train_diffusion(unet, text_encoder, tokenizer, latents, pictures, **options)
        records = list(run)
        results.append((records, unet.state_dict()))
    (expected, weights), (resumed, same) = results
    assert resumed == expected
    assert expected[-1]["loss"] < expected[0]["loss"]
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_samples_are_drawn_on_the_way_and_change_nothing(tokenizer, tmp_path):
    table, pixels = labelled_photos([LION])
    autoencoder = tiny_autoencoder()
    latents = encode_pictures(autoencoder, pixels)
    pictures = pd.DataFrame({"kind": "object", "synset": table["synset"], "background": ""})

    def train(name: str, stop_after: int | None = None, drawn: bool = True):
        torch.manual_seed(0)
        text_encoder, unet = make_text_encoder(tokenizer, width=32, layers=1), tiny_unet()
        checkpoint = tmp_path / f"{name}.pt"
        records = train_diffusion(
            unet, text_encoder, tokenizer, latents, pictures, steps=6, checkpoint=checkpoint, seed=0,
            batch_size=2, weights=np.ones(len(pictures)), checkpoint_every=1,
        )  # fmt: skip
        if drawn:
            records = draw_while_training(
                records, autoencoder=autoencoder, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer,
                scaling_factor=1.0, prompts=["a lion", "a scene"], every=2, checkpoint=checkpoint,
                folder=tmp_path / name, seed=0, steps=2,
            )  # fmt: skip
        for record in records:
            if record["step"] == stop_after:
                break
        return unet.state_dict()

    plain, drawn = train("plain", drawn=False), train("drawn")
    assert all(torch.equal(plain[key], drawn[key]) for key in plain)
    files = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in files] == ["step_000002.png", "step_000004.png", "step_000006.png"]
    assert np.asarray(Image.open(files[0])).shape == (64, 128, 3)
    train("cut", stop_after=4)
    (tmp_path / "cut" / "step_000002.png").unlink()
    train("cut")
    assert [file.name for file in sorted((tmp_path / "cut").iterdir())] == ["step_000004.png", "step_000006.png"]


def test_the_saved_folder_loads_unchanged_in_both_pipelines(tokenizer, tmp_path):
    autoencoder, unet = tiny_autoencoder(), tiny_unet()
    text_encoder = make_text_encoder(tokenizer, width=32, layers=1)
    save_pipeline(tmp_path, autoencoder=autoencoder, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer,
                  scaling_factor=0.7)  # fmt: skip
    dreamt = StableDiffusionPipeline.from_pretrained(tmp_path)(
        "a photo of a lion, in snow", num_inference_steps=2, generator=torch.Generator().manual_seed(0)
    ).images[0]
    assert dreamt.size == (64, 64)
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(tmp_path)
    assert pipeline.vae.config.scaling_factor == 0.7
    again = pipeline("a photo of a lion", image=dreamt, strength=0.5, num_inference_steps=4).images[0]
    assert again.size == (64, 64)


def test_reconstruction_keeps_shape_and_range():
    pictures = labelled_photos([LION])[1][:3]
    decoded = reconstruct(tiny_autoencoder(), pictures)
    assert decoded.shape == pictures.shape
    assert decoded.dtype == np.uint8
