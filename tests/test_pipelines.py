"""A pipeline loads from a folder, is told by its hash, and everything else is a named error."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from d3s_utils import pipelines
from d3s_utils.devices import choose_device
from d3s_utils.pipelines import PipelineError, folder_sha256, load_pipeline, truncated_prompts, write_sha256_sums


def test_it_loads_with_shared_weights_and_its_own_ddim(pipeline):
    assert pipeline.image_to_image.unet is pipeline.text_to_image.unet
    assert pipeline.image_size == 64
    assert pipeline.identifier == "pipeline"
    assert pipeline.precision == "float32"
    assert pipeline.text_to_image.safety_checker is None
    scheduler = pipeline.text_to_image.scheduler
    assert isinstance(scheduler, DDIMScheduler)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.timestep_spacing == "trailing"


def test_another_scheduler_becomes_ddim_with_the_same_noise(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "pndm")
    PNDMScheduler(beta_schedule="scaled_linear", beta_end=0.012, skip_prk_steps=True, steps_offset=1).save_pretrained(
        other / "scheduler"
    )
    index = json.loads((other / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "PNDMScheduler"]
    (other / "model_index.json").write_text(json.dumps(index))
    scheduler = load_pipeline(other, device="cpu").text_to_image.scheduler
    assert isinstance(scheduler, DDIMScheduler)
    assert scheduler.config.beta_end == 0.012
    assert scheduler.config.steps_offset == 1


def test_half_precision_is_an_option(folder):
    loaded = load_pipeline(folder, device="cpu", precision="bfloat16")
    assert loaded.text_to_image.unet.dtype == loaded.text_to_image.text_encoder.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="precision must be auto or one of float32, float16, bfloat16, got 'int8'"):
        load_pipeline(folder, device="cpu", precision="int8")


def test_the_hash_is_of_weights_and_settings_only(folder, pipeline, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("README.md", "metrics.json", "v1-pruned.safetensors"):
        (copy / name).write_text("nothing that diffusers reads")
    assert folder_sha256(copy) == pipeline.sha256
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert folder_sha256(copy) != pipeline.sha256


def test_the_bundled_model_is_pinned(folder, tmp_path, monkeypatch):
    bundled = shutil.copytree(folder, tmp_path / "mini_diffusion")
    monkeypatch.setattr(pipelines, "BUNDLED_FOLDER", bundled)
    with pytest.raises(PipelineError, match="the bundled model is not there"):
        load_pipeline("bundled", device="cpu")
    sha256 = write_sha256_sums(bundled)
    loaded = load_pipeline("bundled", device="cpu")
    assert (loaded.identifier, loaded.sha256) == ("bundled", sha256)
    (bundled / "scheduler" / "scheduler_config.json").write_text("{}")
    (bundled / "unet" / "more.bin").write_bytes(b"1")
    with pytest.raises(PipelineError, match=r"scheduler/scheduler_config.json, unet/more.bin"):
        load_pipeline("bundled", device="cpu")


@pytest.mark.parametrize("generator", ["/no/such/folder", "./no-such-folder", "plain-word", "a/b/c"])
def test_a_place_that_is_none(generator):
    with pytest.raises(PipelineError, match="there is no such folder"):
        load_pipeline(generator, device="cpu")


def test_a_hub_id_that_cannot_be_reached(monkeypatch):
    def download(*args, **options):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(pipelines.StableDiffusionPipeline, "download", download)
    with pytest.raises(PipelineError, match=r"somebody/model.*give a local folder.*Name or service not known"):
        load_pipeline("somebody/model", device="cpu")


def test_a_folder_that_is_no_pipeline(folder, tmp_path):
    with pytest.raises(PipelineError, match=r"with a model_index.json.*it is empty"):
        load_pipeline(tmp_path, device="cpu")
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    with pytest.raises(PipelineError, match="does not load"):
        load_pipeline(broken, device="cpu")
    shutil.rmtree(broken / "unet")
    with pytest.raises(PipelineError, match="does not load"):
        load_pipeline(broken, device="cpu")
    (broken / "model_index.json").write_text("{}")
    with pytest.raises(PipelineError, match="does not load"):
        load_pipeline(broken, device="cpu")
    (broken / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(PipelineError, match="is a FluxPipeline"):
        load_pipeline(broken, device="cpu")


def test_prompts_whose_end_is_not_read_are_found(pipeline):
    short, long = "a lion", "a photo of a lion, " * 20
    assert truncated_prompts(pipeline, [short, long]) == [long]


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="device must be"):
        choose_device("abacus")
    with pytest.raises(ValueError, match="device must be"):
        choose_device("cuda:99")
