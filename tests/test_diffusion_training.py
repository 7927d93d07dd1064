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
from d3s_utils.autoencoder_training import (
    FeatureDiscriminator,
    make_autoencoder,
    photo_batch,
    reconstruct,
    train_autoencoder,
)
from d3s_utils.decoded_critic import DecodedCritic
from d3s_utils.diffusion_training import (
    Latents,
    assemble_pipeline,
    draw_while_training,
    encode_pictures,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    pipeline_to_train,
    sampling_weights,
    save_pipeline,
    train_diffusion,
)
from d3s_utils.photos import PhotoError
from d3s_utils.pipelines import folder_sha256
from d3s_utils.randomness import numpy_generator
from d3s_utils.taxonomy import imagenet_classes, object_prompt
from d3s_utils.training_photos import SPLITS, held_out_photos, make_scenes, read_photos, split_of
from d3s_utils.training_pictures import (
    caption,
    composite_pictures,
    cut_out_objects,
    frame_object,
    gather_training_pictures,
    varied_caption,
)

LION, ORGAN = "n02129165", "n03854065"


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return make_tokenizer()


def tiny_autoencoder():
    torch.manual_seed(0)
    return make_autoencoder(channels=(16, 16, 16))


def tiny_pipeline(tokenizer, seed: int = 0) -> StableDiffusionPipeline:
    autoencoder = tiny_autoencoder()
    torch.manual_seed(seed)
    text_encoder = make_text_encoder(tokenizer, width=32, layers=1)
    unet = make_unet(channels=(32, 32, 32), text_width=32)
    return assemble_pipeline(autoencoder=autoencoder, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer)


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


def test_held_out_photos_are_of_the_test_split_and_enough():
    table = pd.DataFrame(
        {"synset": [LION] * 5 + [ORGAN] * 3 + [""], "split": ["test"] * 4 + ["generator"] + ["test"] * 4}
    )
    assert list(held_out_photos(table, [LION, ORGAN], per_class=3).index) == [0, 1, 2, 5, 6, 7]
    with pytest.raises(PhotoError, match=r"two photos of split 'test' or more, got fewer of n01443537 \(0\)"):
        held_out_photos(table, [LION, "n01443537"], per_class=3)


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
    monkeypatch.setattr(training_pictures, "recognisability", lambda pictures, synsets, device: order)
    options = {"synsets": [LION, ORGAN], "per_background": 2, "composites": 20, "copies": 1, "seed": 0}
    pictures = gather_training_pictures(objects, scenes, kept_share=0.5, **options)
    shown = pictures.pixels[(pictures.table["kind"] == "object").to_numpy()]
    np.testing.assert_array_equal(shown, objects[1][[3, 4, 5, 9, 10, 11]])
    few = gather_training_pictures(objects, scenes, kept_share=0.01, **options)
    assert (few.table["kind"] == "object").sum() == 2, "a share is rounded up: no class may vanish"
    for name in ("kept_share", "kept_share_of_composites"):
        for share in (0, -0.1, 1.1):
            with pytest.raises(ValueError, match=f"{name} must be above 0 and at most 1, got {share}"):
                gather_training_pictures(objects, scenes, **{name: share}, **options)


def test_only_the_best_composites_of_each_pair_are_learnt_from(monkeypatch):
    objects, scenes = labelled_photos([LION, ORGAN]), labelled_photos(BACKGROUND_NAMES)
    looked_at = []

    def brightness(pictures, synsets, device):
        looked_at.append((len(pictures), set(synsets)))
        return np.asarray(pictures).mean((1, 2, 3))

    monkeypatch.setattr(training_pictures, "recognisability", brightness)
    options = {"synsets": [LION, ORGAN], "per_background": 2, "copies": 1, "seed": 0}
    every = gather_training_pictures(objects, scenes, composites=200, **options)
    best = gather_training_pictures(objects, scenes, composites=100, kept_share_of_composites=0.5, **options)
    assert looked_at == [(200, {LION, ORGAN})]
    light = {}
    for name, pictures in (("every", every), ("best", best)):
        rows = (pictures.table["kind"] == "composite").to_numpy()
        table = pictures.table[rows].assign(light=pictures.pixels[rows].mean((1, 2, 3)))
        light[name] = table.groupby(["synset", "background"])["light"]
    assert (light["best"].size() == np.ceil(light["every"].size() / 2)).all()
    assert (light["best"].min() >= light["every"].median() - 1e-9).all()
    assert (light["best"].max() == light["every"].max()).all()


def test_main_classes_are_pasted_twice_as_often():
    objects, scenes = labelled_photos([LION, ORGAN]), labelled_photos(BACKGROUND_NAMES)
    made = gather_training_pictures(
        objects, scenes, synsets=[LION, ORGAN], per_background=1, composites=600, copies=1, main_synsets=[LION], seed=0
    )
    lions = int((made.table[made.table["kind"] == "composite"]["synset"] == LION).sum())
    assert binomtest(lions, 600, 2 / 3).pvalue > 1e-3


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
    assert caption(LION, "", gloss="") == "a photo of a lion"
    assert caption(LION, "snow", gloss="") == "a photo of a lion, in snow"
    assert caption(LION, "snow", gloss="big cat") == "a photo of a lion, big cat, in snow"
    assert caption(LION, "snow").startswith("a photo of a lion, large")


def test_glosses_come_whole_in_part_or_not_at_all():
    random = numpy_generator(0, "glosses")
    drawn = [varied_caption(LION, "snow", random) for _ in range(2000)]
    gloss = caption(LION, "").removeprefix("a photo of a lion, ").split()
    whole, none = drawn.count(caption(LION, "snow")), drawn.count("a photo of a lion, in snow")
    assert 0.37 < whole / 2000 < 0.45
    assert 0.28 < none / 2000 < 0.38, "a part may also hold no word"
    for text in set(drawn):
        words = text.removeprefix("a photo of a lion").removesuffix(", in snow").removeprefix(", ").split()
        rest = iter(gloss)
        assert all(word in rest for word in words), f"{words} must be words of the gloss, in order"
    assert varied_caption("", "snow", random) == "a photo of a scene, in snow"


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
        pipeline = tiny_pipeline(tokenizer)
        options = {"steps": 40, "seed": 0, "batch_size": 8, "checkpoint_every": 10, "learning_rate": 2e-3,
                   "weights": np.ones(len(pictures)), "checkpoint": tmp_path / f"u{cut}.pt"}  # fmt: skip
        run = train_diffusion(pipeline, latents, pictures, **options)
        if cut:
            next(run), run.close()
            pipeline = tiny_pipeline(tokenizer, seed=1)
            run = train_diffusion(pipeline, latents, pictures, **options)
        records = list(run)
        results.append((records, pipeline.unet.state_dict() | pipeline.text_encoder.state_dict()))
    (expected, weights), (resumed, same) = results
    assert resumed == expected
    assert expected[-1]["loss"] < expected[0]["loss"]
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_critics_loss_is_its_parts_and_hangs_on_the_step_alone():
    autoencoder = tiny_autoencoder()
    latents = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    losses = {}
    for recognition, adversarial in ((0.0, 0.0), (0.5, 0.0), (0.0, 2.0)):
        critic = DecodedCritic(
            autoencoder, seed=0, pictures=2, recognition_weight=recognition, adversarial_weight=adversarial
        )
        predicted = latents.clone().requires_grad_(True)
        loss = critic(predicted, latents.flip(0), [291, None], step=3)
        loss.backward()
        losses[recognition, adversarial] = loss.item(), predicted.grad
        assert critic(predicted, latents.flip(0), [291, None], step=3).item() == loss.item()
        if recognition:
            assert critic(predicted, latents.flip(0), [291, None], step=4).item() != loss.item()
    plain, recognised, fooled = losses.values()
    assert not plain[1].any(), "the heads learn, nobody pushes the prediction"
    assert recognised[0] > plain[0]
    assert recognised[1][0].any()
    assert not recognised[1][1].any(), "a prompt that names no class asks for none"
    assert fooled[0] == plain[0], "reversing a gradient changes no value"
    assert fooled[1].any()
    assert all(not p.requires_grad for p in autoencoder.parameters())
    assert all(name.startswith("discriminator.") for name in critic.state_dict()), "what is frozen is not saved"
    with pytest.raises(ValueError, match="pictures must be at least 1, got 0"):
        DecodedCritic(autoencoder, seed=0, pictures=0)


def test_following_the_critic_makes_the_class_more_probable():
    autoencoder = tiny_autoencoder()
    critic = DecodedCritic(autoencoder, seed=0, pictures=1, recognition_weight=1.0, adversarial_weight=0.0)
    latents = torch.zeros(1, 8, 16, 16, requires_grad=True)
    steps = torch.optim.Adam([latents], lr=0.1)
    losses = []
    for _ in range(12):
        loss = critic(latents, latents.detach(), [291], step=0)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_training_with_a_critic_resumes_to_the_same_weights(tokenizer, tmp_path):
    table, pixels = labelled_photos([LION, ORGAN])
    results = []
    for cut in (0, 1):
        pipeline = tiny_pipeline(tokenizer)
        latents = encode_pictures(pipeline.vae, pixels)
        pictures = pd.DataFrame({"kind": "object", "synset": table["synset"], "background": ""})
        options = {"steps": 3, "seed": 0, "batch_size": 3, "checkpoint_every": 1, "weights": np.ones(len(pictures)),
                   "checkpoint": tmp_path / f"{cut}.pt"}  # fmt: skip
        run = train_diffusion(pipeline, latents, pictures, critic=critic_of(pipeline), **options)
        if cut:
            next(run), run.close()
            pipeline = tiny_pipeline(tokenizer)
            torch.nn.init.zeros_(pipeline.unet.conv_out.weight)
            run = train_diffusion(pipeline, latents, pictures, critic=critic_of(pipeline), **options)
        results.append((list(run), pipeline.unet.state_dict()))
    (expected, weights), (resumed, same) = results
    assert resumed == expected
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def critic_of(pipeline) -> DecodedCritic:
    return DecodedCritic(pipeline.vae, seed=0, pictures=2)


def test_no_step_of_training_changes_nothing(tokenizer, tmp_path):
    table, pixels = labelled_photos([LION])
    pipeline = tiny_pipeline(tokenizer)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    latents = encode_pictures(pipeline.vae, pixels)
    pictures = pd.DataFrame({"kind": "object", "synset": table["synset"], "background": ""})
    weights = np.ones(len(pictures))
    options = {"steps": 0, "seed": 0, "weights": weights, "checkpoint": tmp_path / "none.pt"}
    assert list(train_diffusion(pipeline, latents, pictures, **options)) == []
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())


def test_a_compiled_step_trains_the_same_weights(tokenizer, tmp_path, monkeypatch):
    table, pixels = labelled_photos([LION])
    pictures = pd.DataFrame({"kind": "object", "synset": table["synset"], "background": ""})
    compiled, results = [], []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or (lambda *a, **k: module(*a, **k)))
    for on in (False, True):
        pipeline = tiny_pipeline(tokenizer)
        options = {"steps": 2, "seed": 0, "batch_size": 2, "weights": np.ones(len(pictures)), "compiled": on}
        latents = encode_pictures(pipeline.vae, pixels)
        list(train_diffusion(pipeline, latents, pictures, checkpoint=tmp_path / f"{on}.pt", **options))
        results.append(pipeline.unet.state_dict())
    assert len(compiled) == 1
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_discriminators_gradient_is_reversed_for_the_decoder_alone():
    torch.manual_seed(0)
    discriminator = FeatureDiscriminator([4, 6], hidden=8)
    photos, plain = ([torch.randn(2, width, 5, 5) for width in (4, 6)] for _ in range(2))
    gradients = {}
    for weight in (1.0, 0.5):
        decoded = [features.clone().requires_grad_() for features in plain]
        discriminator.zero_grad()
        loss = discriminator.adversarial_loss(photos, decoded, weight=weight)
        loss.backward()
        gradients[weight] = [f.grad for f in decoded], [p.grad.clone() for p in discriminator.parameters()]
    direct = [features.clone().requires_grad_() for features in plain]
    hinge = sum(torch.relu(1 + head(f)).mean() / 2 for head, f in zip(discriminator.heads, direct, strict=True))
    wanted = torch.autograd.grad(hinge, direct)
    for one, half, truth in zip(gradients[1.0][0], gradients[0.5][0], wanted, strict=True):
        torch.testing.assert_close(one, -truth)
        torch.testing.assert_close(half, -truth / 2)
    for one, half in zip(gradients[1.0][1], gradients[0.5][1], strict=True):
        torch.testing.assert_close(one, half)


def test_an_adversarial_decoder_resumes_to_the_same_weights_and_needs_features(tmp_path):
    photos = torch.from_numpy(labelled_photos([LION])[1]).permute(0, 3, 1, 2)
    options = {"steps": 3, "seed": 0, "batch_size": 2, "adversarial_weight": 0.1, "checkpoint_every": 1}
    results = []
    for cut in (0, 1):
        autoencoder = tiny_autoencoder()
        run = train_autoencoder(autoencoder, photos, checkpoint=tmp_path / f"{cut}.pt", freeze_encoder=True, **options)
        if cut:
            next(run), run.close()
            torch.manual_seed(99)
            autoencoder = tiny_autoencoder()
            run = train_autoencoder(autoencoder, photos, checkpoint=tmp_path / "1.pt", freeze_encoder=True, **options)
        records = list(run)
        results.append((records, autoencoder.state_dict()))
    (expected, weights), (resumed, same) = results
    assert resumed == expected
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    with pytest.raises(ValueError, match=r"adversarial_weight 0.1 needs a perceptual_weight above 0"):
        list(train_autoencoder(autoencoder, photos, checkpoint=tmp_path / "x.pt", perceptual_weight=0.0, **options))


def test_samples_are_drawn_on_the_way_and_change_nothing(tokenizer, tmp_path):
    table, pixels = labelled_photos([LION])
    latents = encode_pictures(tiny_autoencoder(), pixels)
    pictures = pd.DataFrame({"kind": "object", "synset": table["synset"], "background": ""})

    def train(name: str, stop_after: int | None = None, drawn: bool = True):
        pipeline, checkpoint = tiny_pipeline(tokenizer), tmp_path / f"{name}.pt"
        records = train_diffusion(
            pipeline, latents, pictures, steps=6, checkpoint=checkpoint, seed=0, batch_size=2, learning_rate=0.05,
            weights=np.ones(len(pictures)), checkpoint_every=1,
        )  # fmt: skip
        if drawn:
            records = draw_while_training(
                records, pipeline, prompts=["a lion", "a scene"], every=2, checkpoint=checkpoint,
                folder=tmp_path / name, seed=0, steps=2,
            )  # fmt: skip
        for record in records:
            if record["step"] == stop_after:
                break
        return pipeline.unet.state_dict()

    plain, drawn = train("plain", drawn=False), train("drawn")
    assert all(torch.equal(plain[key], drawn[key]) for key in plain)
    files = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in files] == ["step_000002.png", "step_000004.png", "step_000006.png"]
    first, last = (np.asarray(Image.open(file)) for file in (files[0], files[-1]))
    assert first.shape == (64, 128, 3)
    assert not np.array_equal(first, last), "the pictures must show that training went on"
    train("cut", stop_after=4)
    (tmp_path / "cut" / "step_000002.png").unlink()
    train("cut")
    assert [file.name for file in sorted((tmp_path / "cut").iterdir())] == ["step_000004.png", "step_000006.png"]


def test_the_saved_folder_loads_unchanged_in_both_pipelines_and_trains_on(tokenizer, tmp_path):
    first = tiny_pipeline(tokenizer)
    first.vae.register_to_config(scaling_factor=0.7)
    save_pipeline(tmp_path / "first", first)
    again = pipeline_to_train(tmp_path / "first")
    again("a lion", num_inference_steps=1)
    save_pipeline(tmp_path / "second", again)
    assert folder_sha256(tmp_path / "first") == folder_sha256(tmp_path / "second"), "the same weights, the same files"
    for config in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in config.read_text(), f"{config.name} must not name a folder of this machine"
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "second")
    assert pipeline.vae.config.scaling_factor == 0.7
    dreamt = pipeline(
        "a photo of a lion, in snow", num_inference_steps=2, generator=torch.Generator().manual_seed(0)
    ).images[0]
    assert dreamt.size == (64, 64)
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(tmp_path / "second")
    assert pipeline("a photo of a lion", image=dreamt, strength=0.5, num_inference_steps=4).images[0].size == (64, 64)


def test_reconstruction_keeps_shape_and_range():
    pictures = labelled_photos([LION])[1][:3]
    decoded = reconstruct(tiny_autoencoder(), pictures)
    assert decoded.shape == pictures.shape
    assert decoded.dtype == np.uint8
