"""A language and a model small enough to train in a second; and a browser."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

# shapes in annotations are checked while the tests run; before anything of confreg is imported
HOOK = install_import_hook(["confreg.neurons", "confreg.models", "confreg.interventions", "confreg.languages.truth"], "beartype.beartype")

import lightning.pytorch as pl
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from confreg.languages.blocks import Blocks
from confreg.languages.sources import measured_blocks
from confreg.languages.synthetic import SyntheticLanguage
from confreg.languages.tokenizers import train_tokenizer, wrapped_tokenizer
from confreg.settings import MeasureSettings, ModelSettings, OptimizerSettings, SyntheticSettings
from confreg.training.data_order import StepIndexedBatches, train_loader, validation_loader
from confreg.training.language_module import LanguageModule

TINY_LANGUAGE: dict[str, Any] = {
    "vocabulary_size": 24,
    "rank": 3,
    "block_length": 12,
    "batch_size": 4,
    "n_inverse_temperatures": 2,
    "n_backoff_weights": 2,
    "n_reference": 6,
    "n_measured": 18,
}
LIKE_LLAMA: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
TINY_MODEL: dict[str, Any] = {"n_layer": 1, "d_model": 16, "d_mlp": 8, "n_head": 2, "dropout": 0.1}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # tiny tensors: threads only wait for one another, the more the busier the machine


@pytest.fixture(autouse=True)
def _quiet_lightning() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(LeafSpec|does not have many workers|GPU available).*")


@pytest.fixture(scope="session")
def tiny_language() -> SyntheticLanguage:
    return SyntheticLanguage(SyntheticSettings(**TINY_LANGUAGE), seed=0)


@pytest.fixture(scope="session")
def tiny_blocks(tiny_language: SyntheticLanguage) -> Blocks:
    return measured_blocks(tiny_language, MeasureSettings(n_scored_per_block=5), seed=0)


@pytest.fixture(scope="session")
def tiny_counts(tiny_language: SyntheticLanguage) -> torch.Tensor:
    return tiny_language.token_counts(64)


@pytest.fixture
def tiny_module() -> Callable[..., LanguageModule]:
    def make(max_steps: int = 6, seed: int = 0, **model: Any) -> LanguageModule:
        return LanguageModule(
            ModelSettings(**{**TINY_MODEL, **model}), OptimizerSettings(warmup_steps=2), 24, 12, max_steps, tokens_per_step=44, seed=seed
        )

    return make


@pytest.fixture
def fit(tiny_language: SyntheticLanguage, tmp_path: Path) -> Callable[..., pl.Trainer]:
    """Train a module on the tiny language with these callbacks; the trainer."""

    def train(
        module: LanguageModule,
        *callbacks: pl.Callback,
        start_step: int = 0,
        ckpt_path: Path | None = None,
        accumulate: int = 1,
        validation_batches: int = 0,
        stop_at: int | None = None,
        **trainer: Any,
    ) -> pl.Trainer:
        steps = module.max_steps
        batches = StepIndexedBatches(None, 4, steps * accumulate, seed=0, start=start_step * accumulate)
        chosen = pl.Trainer(
            max_steps=stop_at or steps,
            max_epochs=1,
            accelerator="cpu",
            callbacks=list(callbacks),
            logger=trainer.pop("logger", False),
            accumulate_grad_batches=accumulate,
            limit_val_batches=validation_batches,
            val_check_interval=2 * accumulate,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            log_every_n_steps=1,
            **trainer,
        )
        validation = validation_loader(tiny_language, 4, max(1, validation_batches))
        chosen.fit(module, train_loader(tiny_language, batches), validation, ckpt_path=ckpt_path)
        return chosen

    return train


@pytest.fixture
def make_of_family() -> Callable[..., PreTrainedModel]:
    """A tiny model of any row of confreg.models.families, from its configuration; gains, biases and multipliers that matter."""

    def make(family: str, dtype: torch.dtype = torch.float32, n_layer: int = 2, **own: Any) -> PreTrainedModel:
        sizes = {**TINY_OF_FAMILIES, "num_hidden_layers": n_layer, **FAMILIES_OWN.get(family, {}), **own}
        config = AutoConfig.for_model(family, **{name: size for name, size in sizes.items() if size is not DERIVED})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape))
        return model.to(dtype)

    return make


TINY_OF_FAMILIES = dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id"]) | {"max_position_embeddings": 16, "vocab_size": 19}
TINY_OF_FAMILIES |= {"hidden_size": 16, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
DERIVED = object()  # what a configuration works out by itself
FAMILIES_OWN: dict[str, dict[str, Any]] = {
    **{family: {"logit_scale": 0.3} for family in ("cohere", "cohere2")},
    **{family: {"final_logit_softcapping": 2.0} for family in ("gemma2", "gemma3_text", "vaultgemma")},
    "falcon": {"ffn_hidden_size": 12, "bias": True, "head_dim": DERIVED},
    "gpt2": {"n_inner": 12},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global"], 2]], "num_heads": 2},
    "gptj": {"n_inner": 12, "rotary_dim": 4},
    "granite": {"residual_multiplier": 0.4, "logits_scaling": 3.0},
    "opt": {"ffn_dim": 12},
}


@pytest.fixture
def without_rounding() -> Callable[[], TorchFunctionMode]:
    """Within it, what transformers computes in fp32 whatever its weights are stays in float64 where it comes in float64."""

    class WithoutRounding(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), options: dict[str, Any] | None = None) -> Any:
            options = dict(options or {})
            if arguments and getattr(arguments[0], "dtype", None) is torch.float64:
                function = torch.Tensor.double if function is torch.Tensor.float else function
                arguments = tuple(torch.float64 if each is torch.float32 else each for each in arguments)
                options = {name: torch.float64 if each is torch.float32 else each for name, each in options.items()}
            return function(*arguments, **options)

    return WithoutRounding


@pytest.fixture
def weights_of() -> Callable[[torch.nn.Module], list[torch.Tensor]]:
    def weights(module: torch.nn.Module) -> list[torch.Tensor]:
        return [each.detach().clone() for each in module.parameters()]

    return weights


BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--force-prefers-reduced-motion",  # a click would miss an element that a smooth scroll is still moving
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A selenium driver of a headless chromium of the machine; nothing is downloaded. Its logs tell the console and every request."""
    program, driver = next(filter(None, map(shutil.which, BROWSER_NAMES)), None), shutil.which("chromedriver")
    if program is None or driver is None:
        reason = "no chromium with its chromedriver is on the PATH (Debian: apt-get install chromium chromium-driver)"
        (pytest.fail if os.environ.get("CONFREG_REQUIRE_BROWSER") == "1" else pytest.skip)(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}", "--window-size=1366,768"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


class Visit:
    """A page in a browser, and what the console and the network tell of it."""

    def __init__(self, driver: Any) -> None:
        self.driver, self.run, self.address = driver, driver.execute_script, lambda: driver.current_url

    def open(self, page: Path, is_drawn: str) -> None:
        """Open a file in the usual look and wait until ``is_drawn`` (JavaScript) holds."""
        self.complaints(), self.requests()  # what other pages left
        self.set_media(prefers_color_scheme="light")
        self.set_size(1366, 768)
        self.driver.get(page.as_uri())
        self.wait_until(f"return {is_drawn}")

    def wait_until(self, holds: str | Callable[[], Any], *arguments: Any) -> None:
        """Wait until a function, or a script's return value, is true; at most 30 seconds."""
        start = time.monotonic()
        while not (self.run(holds, *arguments) if isinstance(holds, str) else holds()):
            assert time.monotonic() - start < 30, f"what was waited for did not come: {holds}"
            time.sleep(0.02)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> set[str]:
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return {url for url in urls if not url.startswith(("data:", "blob:"))}

    def set_size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def set_media(self, **features: str) -> None:
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})

    def element(self, identity: str) -> Any:
        return self.driver.find_element("id", identity)

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)


@pytest.fixture(scope="session")
def visit(browser: Any) -> Visit:
    return Visit(browser)


@pytest.fixture(scope="session")
def story_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of a few words, as text files."""
    folder, draw = tmp_path_factory.mktemp("texts") / "stories", random.Random(0)
    folder.mkdir()
    words = [
        "the",
        "confidence",
        "of",
        "a",
        "model",
        "is",
        "carried",
        "by",
        "neurons",
        "whose",
        "writes",
        "no",
        "token",
        "can",
        "see",
        "and",
        "tells",
    ]
    for number in range(40):
        text = "".join(draw.choice(words) + draw.choices([" ", ". ", "\n"], [20, 3, 2])[0] for _ in range(150 + 11 * (number % 7)))
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def publish(tmp_path_factory: pytest.TempPathFactory, story_folder: Path) -> Callable[..., Path]:
    """A function that saves a tiny random model with a tokenizer as ``save_pretrained`` does, and gives its folder.

    The model has more rows in its embedding than the tokenizer has tokens, as published ones do.
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(story_folder.glob("*.txt"))]
    tokenizer = wrapped_tokenizer(train_tokenizer(texts, 290))

    def make(model_type: str = "llama", seed: int = 0, folder: Path | None = None, begins: bool = False, **own: Any) -> Path:
        target = folder or tmp_path_factory.mktemp("published") / model_type
        names = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32} if model_type == "gpt2" else LIKE_LLAMA
        config = AutoConfig.for_model(model_type, vocab_size=300, bos_token_id=None, eos_token_id=0, **names | own)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
            for parameter in model.parameters():
                parameter.data.add_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(target)
        chosen = copy.deepcopy(tokenizer)
        if begins:  # as Llama's: a token stands before every text
            chosen.backend_tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
        chosen.save_pretrained(target)
        return target

    return make
