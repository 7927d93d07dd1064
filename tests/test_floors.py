"""A module imports only from floors below its own, so the package can be read from the ground up."""

from d3s_utils.module_imports import PACKAGE, imported_modules

FLOORS = {
    0: (
        "atomic_files", "batching", "checkpoints", "devices", "finetuning_options", "information_bounds",
        "module_imports", "mutual_information", "paste_finding", "photos", "placing", "preprocessing",
        "probe_figures", "processes", "progress_lines", "randomness", "resumable", "row_appender", "saliency",
        "scene_mining", "softmax_regression", "softmax_solver", "taxonomy",
    ),
    1: (
        "classifiers", "codelength", "coloured_digits", "d3s_reading", "dataset_export", "erasers", "figures",
        "finetuning_data", "group_samples", "guide_distance", "in9_imitation", "kernel_dependence", "masks",
        "metrics", "perceptron", "photo_sources", "pipelines", "png_files", "prediction_store", "probe_models",
        "probe_speed", "run_images", "settings", "spurious_labels", "spurious_task", "thumbnails",
    ),
    2: (
        "accuracy_figures", "background_classifier", "benchmark_readers", "compositing", "dataset_card",
        "dreaming", "expected_cost", "first_look", "gallery", "generation_figures", "group_robustness",
        "image_safety", "in9_variants", "intervals", "model_card", "notebook_run", "picture_quality",
        "small_resnet", "split_network", "spurious_sets", "training_photos", "variational_dependence",
        "wasserstein_dependence", "zero_shot",
    ),
    3: (
        "autoencoder_training", "background_training", "backgrounds_challenge", "calibration",
        "compositing_speed", "contrast_figures", "dependence", "finetuned_features", "gathering",
        "generation_requests", "group_evaluation", "guides", "image_sets", "information_left",
        "lpips_diversity", "matching_gap", "notebook_graph", "panel", "picture_statistics", "probes", "report",
        "separation_tradeoff", "small_resnet_photos", "spurious_figures", "training_pictures", "votes",
        "zoo_loaders",
    ),
    4: (
        "annotation_tasks", "classifier_zoo", "controlled_gap", "decoded_critic", "dreamt_photos", "evaluation",
        "generator_quality", "imitated_challenge", "invariant_features", "job", "judge_cards", "manifest",
        "own_ground", "reference_photos", "small_resnet_measures", "split_game", "spurious_heads",
    ),
    5: (
        "annotation_answers", "annotation_pages", "challenge_figures", "d3s_import", "decoder_refining",
        "diffusion_training", "finetuning", "foreground_bootstrap", "generation", "head_saliency", "in9_homes",
        "one_pass", "small_resnet_card", "validation",
    ),
    6: (
        "annotation", "background_contrasts", "challenge_inputs", "d3s_layout", "generation_speed",
        "one_pass_speed", "paste_biases", "people", "small_resnet_training", "subgroup_measures",
        "zoo_measures",
    ),
    7: ("focus", "robustness_figures", "robustness_measures"),
}  # fmt: skip
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules}


def test_every_module_has_a_floor():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(FLOOR), "add a new module to FLOORS in tests/test_floors.py, as low as it can stand"


def test_imports_go_down():
    wrong = [
        f"{module} (floor {floor}) imports {needed} (floor {FLOOR.get(needed)})"
        for module, floor in FLOOR.items()
        for needed in sorted(imported_modules((PACKAGE / f"{module}.py").read_text()))
        if FLOOR.get(needed, 99) >= floor
    ]
    assert not wrong
