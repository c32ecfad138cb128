"""`Trainer` with an adversary or a method: against loops of one's own, on tiny random networks."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.utils.data import SequentialSampler
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from advreg import Batch, LayerwiseAdversary
from advreg.data import with_indices
from advreg.errors import ConfigurationError, DataError, StateError, UnsupportedError
from advreg.integrations.transformers import AdversaryCallback, MethodMixin
from advreg.methods import METHODS, build_method

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_labels": 3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture(autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()


def mean_loss(model):
    """Says that its loss is a mini-batch's mean, which `Trainer` then scales for accumulation."""
    model.accepts_loss_kwargs = False
    return model


def text_model():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=20, max_position_embeddings=8, **SMALL)
    return mean_loss(BertForSequenceClassification(config))


def image_model():
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1}
    return mean_loss(ViTForImageClassification(ViTConfig(**sizes, **SMALL)))


def convolutional_model():
    """Whose names in a checkpoint are its own: of a ViT's, `Trainer` restores some alone."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    config = transformers.ResNetConfig(num_channels=1, num_labels=3, **sizes)
    return mean_loss(transformers.ResNetForImageClassification(config))


def texts(count=24):
    generator = torch.Generator().manual_seed(1)
    for index in range(count):
        tokens = torch.randint(1, 20, (6,), generator=generator)
        length = 3 + index % 4
        mask = (torch.arange(6) < length).long()
        yield {"input_ids": tokens * mask, "attention_mask": mask, "labels": index % 3}


def images(count=24):
    generator = torch.Generator().manual_seed(1)
    for index in range(count):
        yield {"pixel_values": torch.rand(1, 8, 8, generator=generator), "labels": index % 3}


MODELS = {"text": (text_model, texts), "image": (image_model, images)}


class InOrder(Trainer):
    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset)


class MethodTrainer(MethodMixin, InOrder):
    pass


def settings(folder, **changed):
    usual = {
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "optim": "sgd",
        "learning_rate": 0.3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.5,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    return TrainingArguments(str(folder), **usual | changed)


def train(
    kind, folder, *callbacks, resume=None, trainer=InOrder, model=None, method=None, **changed
):
    """The network after training."""
    build, data = MODELS[kind]
    model = build() if model is None else model
    options = {} if method is None else {"method": method}
    InUse = trainer if method is None else MethodTrainer
    runs = InUse(
        model=model,
        args=settings(folder, **changed),
        train_dataset=list(data()),
        callbacks=list(callbacks),
        **options,
    )
    runs.train(resume_from_checkpoint=None if resume is None else str(resume))
    return model


def loop(kind, step_of, steps=6, accumulate=1, model=None):
    """The same training in plain lines; `step_of(model, batch)` leaves the gradient."""
    build, data = MODELS[kind]
    model = (build() if model is None else model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    rows = list(data())
    for number in range(steps * accumulate):
        chosen = [rows[(4 * number + i) % len(rows)] for i in range(4)]
        batch = {
            key: torch.stack([torch.as_tensor(row[key]) for row in chosen]) for key in chosen[0]
        }
        step_of(model, batch)
        if (number + 1) % accumulate == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    return model


def assert_same(one, other, exact=False):
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-6}
    for (name, mine), theirs in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            mine, theirs, **tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def differ(one, other):
    return any(not a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_the_callback_is_a_loop_with_an_adversary(kind, accumulate, tmp_path):
    sites = ["@embeddings", "@hidden"] if kind == "text" else "@default"
    model, adversary = MODELS[kind][0](), LayerwiseAdversary(0.2, sites)

    def step(model, batch):
        mask = batch.get("attention_mask")
        adversary.set_batch(mask=None if mask is None else mask.bool())
        (model(**batch).loss / accumulate).backward()

    with adversary.attach(model):
        expected = loop(kind, step, 3, accumulate, model)
    other = LayerwiseAdversary(0.2)
    options = {"max_steps": 3, "gradient_accumulation_steps": accumulate}
    trained = train(kind, tmp_path, AdversaryCallback(other), **options)
    assert_same(trained, expected)
    assert list(other.statistics()) == list(adversary.statistics())
    assert len(other.statistics()) >= 3
    assert differ(trained, train(kind, tmp_path, **options))
    assert not any(module._forward_hooks for module in trained.modules())


class Watch(TrainerCallback):
    """Keeps what the embeddings hand on, as they made it and as the next module takes it."""

    def __init__(self):
        self.seen = []

    def on_train_begin(self, args, state, control, model=None, **parts):
        embedding = model.get_input_embeddings()

        def note(module, args, output):
            table = module.weight.detach()[args[0]]
            self.seen.append((args[0], (output.detach() - table).abs().amax(-1)))

        self.handle = embedding.register_forward_hook(note)

    def on_train_end(self, args, state, control, **parts):
        self.handle.remove()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_padding_is_not_perturbed(checkpointing, tmp_path):
    watch = Watch()
    options = {"gradient_checkpointing": checkpointing, "max_steps": 3}
    train("text", tmp_path, AdversaryCallback(LayerwiseAdversary(0.2)), watch, **options)
    for tokens, moved in watch.seen[1:]:
        assert not moved[tokens == 0].any()
    # The first mini-batch has four lengths, as all have, so that every token met one before it.
    assert (watch.seen[2][1][watch.seen[2][0] > 0] > 0).float().mean() > 0.9


def test_gradient_checkpointing_changes_nothing(tmp_path):
    adversaries = [LayerwiseAdversary(0.2) for _ in range(2)]
    plain, less = (
        train("text", tmp_path, AdversaryCallback(adversary), gradient_checkpointing=saves)
        for adversary, saves in zip(adversaries, (False, True), strict=True)
    )
    assert_same(plain, less)
    assert adversaries[0].step == adversaries[1].step == 6


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_resumed_run_is_an_uninterrupted_one(kind, tmp_path):
    build = text_model if kind == "text" else convolutional_model
    options = {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    adversary = LayerwiseAdversary(0.2, start="random")
    whole = train(kind, tmp_path, AdversaryCallback(adversary), model=build(), **options)
    checkpoint = tmp_path / "checkpoint-3"
    assert (checkpoint / "advreg-rank-0.pt").is_file()
    for again, folder in ((AdversaryCallback, tmp_path), (elsewhere(checkpoint), tmp_path / "new")):
        other = LayerwiseAdversary(0.2, start="random")
        options["model"] = build()
        resumed = train(kind, folder, again(other), resume=checkpoint, **options)
        assert_same(resumed, whole, exact=True)
        assert list(other.statistics()) == list(adversary.statistics())
        for site, figures in adversary.statistics().items():
            assert other.statistics()[site] == pytest.approx(figures, nan_ok=True, rel=0, abs=0)


def elsewhere(checkpoint):
    return lambda part: AdversaryCallback(part, resume_from=checkpoint)


def test_a_checkpoint_without_a_fitting_state_is_refused(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3}
    train("image", tmp_path, **options)
    checkpoint = tmp_path / "checkpoint-3"
    callback = AdversaryCallback(LayerwiseAdversary(0.2))
    with pytest.raises(StateError, match=r"no state of an adversary.*resume_from"):
        train("image", tmp_path, callback, resume=checkpoint, **options)
    torch.save({"world_size": 2, "state": {}}, checkpoint / "advreg-rank-0.pt")
    with pytest.raises(StateError, match="2 processes and this run has 1"):
        train("image", tmp_path, callback, resume=checkpoint, **options)


def test_evaluation_is_untouched_and_a_failed_run_can_be_repeated(tmp_path):
    class Compare(TrainerCallback):
        differences = 0

        def on_step_end(self, args, state, control, model=None, **parts):
            plain, rows = copy.deepcopy(model).eval(), list(images(4))
            model.eval()
            pixels = torch.stack([row["pixel_values"] for row in rows])
            assert model(pixels).logits.equal(plain(pixels).logits)
            model.train()
            self.differences += not model(pixels).logits.equal(plain.train()(pixels).logits)
            if state.global_step == 4:
                raise KeyError

    callback, model, compare = AdversaryCallback(LayerwiseAdversary(0.2)), image_model(), Compare()
    for _ in range(2):
        with pytest.raises(KeyError):
            train("image", tmp_path, callback, compare, model=model)
    assert compare.differences >= 6


def test_examples_are_known_by_their_numbers(tmp_path):
    rows = with_indices(list(images(8)))
    adversary = LayerwiseAdversary(0.2, memory="example")
    InOrder(
        model=image_model(),
        args=settings(tmp_path, remove_unused_columns=False),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[AdversaryCallback(adversary)],
    ).train()
    store = adversary.state_dict()["sites"]["input"]["calls"][0]["memory"]["stores"][0]
    assert store["visits"].tolist()[:8] == [3] * 8


def test_a_decoder_has_a_mask_of_its_own(tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(
        vocab_size=20, dropout_rate=0.0, decoder_start_token_id=0, **sizes
    )
    model, rows = transformers.T5ForConditionalGeneration(config), []
    for length in (5, 2, 4, 3):
        mask = (torch.arange(5) < length).long()
        labels = torch.where(torch.arange(5) < 6 - length, 3, -100)
        rows.append({"input_ids": 5 * mask, "attention_mask": mask, "labels": labels})
    adversary = LayerwiseAdversary(0.2, None)
    masks = {}
    set_batch = adversary.set_batch

    def heard(indices=None, view=None, mask=None):
        masks.update(mask)
        set_batch(indices, view, mask)

    adversary.set_batch = heard
    InOrder(
        model=model,
        args=settings(tmp_path, max_steps=2),
        train_dataset=rows,
        callbacks=[AdversaryCallback(adversary)],
    ).train()
    own = torch.stack([row["attention_mask"] for row in rows]).bool()
    labels = torch.stack([row["labels"] for row in rows]) != -100
    assert masks["encoder.block.0"].equal(own)
    assert masks["decoder.block.0"].equal(labels)
    assert [mask.tolist() for mask in masks["shared"]] == [own.tolist(), labels.tolist()]
    assert {"encoder.embed_tokens", "decoder.embed_tokens"} < set(adversary.statistics())


def fgsm_on_embeddings(model, batch, epsilon, scale=1.0):
    """J at half weight, and J at the embeddings moved by the sign of its gradient there."""
    embed = model.get_input_embeddings()
    rest = {"attention_mask": batch["attention_mask"], "labels": batch["labels"]}
    embedded = embed(batch["input_ids"])
    embedded.retain_grad()
    (scale * 0.5 * model(inputs_embeds=embedded, **rest).loss).backward()
    moved = embed(batch["input_ids"]) + epsilon * embedded.grad.sign()
    (scale * 0.5 * model(inputs_embeds=moved, **rest).loss).backward()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_method_on_tokens_is_its_loop_on_embeddings(accumulate, tmp_path):
    expected = loop(
        "text",
        lambda model, batch: fgsm_on_embeddings(model, batch, 0.05, 1 / accumulate),
        3,
        accumulate,
    )
    method = build_method("fgsm", epsilon=0.05)
    options = {"max_steps": 3, "gradient_accumulation_steps": accumulate}
    trained = train("text", tmp_path, method=method, **options)
    assert_same(trained, expected)
    before = text_model().get_input_embeddings().weight
    assert not trained.get_input_embeddings().weight.equal(before)


@pytest.mark.parametrize("name", ["fgsm", "mixup", "pgd", "sam", "vat", "trades"])
def test_a_method_on_images_is_its_loop(name, tmp_path):
    method, model = build_method(name), image_model()
    again = copy.deepcopy(method)

    def step(model, batch):
        call = Batch(batch["pixel_values"], batch["labels"])
        method.step(model, call, F.cross_entropy, torch.Tensor.backward)

    with method.attach(model, steps_per_epoch=6):
        expected = loop("image", step, 3, model=model)
    assert_same(train("image", tmp_path, method=again, max_steps=3), expected)


def test_a_replayed_mini_batch_has_its_optimizer_steps(tmp_path):
    method, model = build_method("free", replays=3), image_model()
    again = copy.deepcopy(method)

    def step(model, batch):
        call = Batch(batch["pixel_values"], batch["labels"])
        for replay in range(3):
            if replay:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                torch.optim.SGD(model.parameters(), lr=0.3).step()
                model.zero_grad()
            method.step(model, call, F.cross_entropy, torch.Tensor.backward)

    with method.attach(model, steps_per_epoch=6):
        expected = loop("image", step, 3, model=model)
    assert_same(train("image", tmp_path, method=again, max_steps=3), expected)
    with pytest.raises(ConfigurationError, match="gradient_accumulation_steps to 1"):
        train("image", tmp_path, method=copy.deepcopy(again), gradient_accumulation_steps=2)


def test_a_method_resumes(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3}
    runs = []
    for resume in (None, tmp_path / "checkpoint-3"):
        options |= {"model": convolutional_model(), "method": build_method("rs_fgsm")}
        runs.append(train("image", tmp_path, resume=resume, **options))
    whole, resumed = runs
    assert_same(resumed, whole, exact=True)


@pytest.mark.parametrize("method", [None, "fgsm"])
def test_half_precision_trains(method, tmp_path):
    callbacks = [] if method else [AdversaryCallback(LayerwiseAdversary(0.1))]
    method = build_method("fgsm", epsilon=0.05) if method else None
    model = train("text", tmp_path, *callbacks, method=method, bf16=True, max_steps=3)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert differ(model, text_model())


@pytest.mark.full
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains_or_says_why_not(name, kind, tmp_path):
    rows = [{**row, "example_index": i} for i, row in enumerate(MODELS[kind][1]())]
    trainer = MethodTrainer(
        method=build_method(name),
        model=MODELS[kind][0](),
        args=settings(tmp_path, remove_unused_columns=False, max_steps=3),
        train_dataset=rows,
    )
    if (name, kind) == ("cutmix", "text"):
        with pytest.raises(DataError, match="images"):
            trainer.train()
    elif name in ("input_gradient", "gradalign"):
        with pytest.raises(UnsupportedError, match="MATH"):
            trainer.train()
    else:
        assert math.isfinite(trainer.train().training_loss)


def test_attention_without_a_second_derivative_is_named(tmp_path):
    with pytest.raises(UnsupportedError, match=r"cannot; .*sdpa_kernel\(SDPBackend\.MATH\)"):
        train("image", tmp_path, method=build_method("input_gradient"))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        train("image", tmp_path, method=build_method("input_gradient"), max_steps=2)


def test_what_does_not_fit_is_one_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match="label_smoothing_factor cannot"):
        train("image", tmp_path, method=build_method("fgsm"), label_smoothing_factor=0.1)
    rows = [{"pixel_values": row["pixel_values"]} for row in images()]
    trainer = MethodTrainer(
        method=build_method("fgsm"),
        model=image_model(),
        args=settings(tmp_path),
        train_dataset=rows,
    )
    with pytest.raises(DataError, match="has pixel_values and no labels"):
        trainer.train()
    with pytest.raises(DataError, match=r"a mapping \(pixel_values, labels\)"):
        Batch({"pixel_values": torch.rand(8, 1), "labels": torch.zeros(8)}, torch.zeros(8))


@pytest.mark.parametrize("name", ["fgsm", "datagrad", "input_gradient", "vat", "pgd", "mixup"])
def test_tokens_are_refused_with_the_mend(name):
    model, method = text_model(), build_method(name)
    batch = Batch(torch.randint(1, 20, (4, 6)), torch.zeros(4).long())
    with (
        method.attach(model, steps_per_epoch=2),
        pytest.raises(ConfigurationError, match="of tokens perturb the embeddings"),
    ):
        method.step(model, batch, F.cross_entropy, torch.Tensor.backward)


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "a", "b", "c", "d"])}
    own = Tokenizer(models.WordLevel(words, unk_token="a"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", eos_token="<eos>"
    )


@pytest.mark.full
def test_a_trainer_of_trl_is_perturbed(tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 6}
    trained = []
    for epsilon in (0.0, 0.3):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
        usual = settings(tmp_path, max_steps=4, optim="sgd").to_dict()
        kept = ("per_device_train_batch_size", "max_steps", "optim", "learning_rate", "report_to")
        args = SFTConfig(
            str(tmp_path),
            **{name: usual[name] for name in kept},
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            save_strategy="no",
            max_length=8,
        )
        adversary, watch = LayerwiseAdversary(epsilon), Watch()
        SFTTrainer(
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"text": ["a b c", "b d", "c c a d", "d"] * 4}),
            processing_class=tokenizer(),
            callbacks=[AdversaryCallback(adversary), watch],
        ).train()
        trained.append(model)
        assert (
            list(adversary.statistics())
            == [
                "transformer.wte",
                "transformer.h.0",
                "transformer.h.1",
                "transformer",
            ]
            or len(adversary.statistics()) >= 3
        )
        assert any(moved.any() for _, moved in watch.seen) == (epsilon > 0)
    assert differ(*trained)
