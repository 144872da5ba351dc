"""Prompt files and their rendering to ids."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from conftest import MODELS
from leyden.data.messages import Message
from leyden.data.render import Renderer
from leyden.data.sources import read_prompts
from leyden.errors import AlignmentError, ConfigError
from leyden.models.vocabulary import check_same_vocabulary, continuation_text, load_tokenizer
from leyden.recipe.schema import PromptFile, Template


def source(tmp_path, *lines, **fields):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return PromptFile(file=str(path), **fields)


def test_rows_are_read_in_order_with_content_ids(tmp_path):
    first, second = read_prompts(source(tmp_path, {"prompt": "a"}, "", {"prompt": "b", "x": 1}))
    assert (first.text, second.text, second.row["x"]) == ("a", "b", 1)
    assert first.id != second.id and len(first.id) == 16


@pytest.mark.parametrize(
    ("lines", "fields", "sentence"),
    [
        (['{"prompt": "a"}', "{bad"], {}, "p.jsonl:2: not valid JSON"),
        (['{"prompt": "a"}', "[1]"], {}, "p.jsonl:2: a list, not an object"),
        (['{"question": "a"}'], {}, "p.jsonl:1: has no field 'prompt'; it has 'question'"),
        (['{"prompt": ""}'], {}, "p.jsonl:1: prompt is ''"),
        (['{"prompt": " \\n"}'], {}, "p.jsonl:1: prompt is ' \\n'"),
        (['{"prompt": 3}'], {}, "p.jsonl:1: prompt is 3"),
        (['{"prompt": "a"}', '{"prompt": "a"}'], {}, "p.jsonl:2: prompt id"),
        (['{"prompt": "a", "y": null}'], {"answer_field": "y"}, "p.jsonl:1: y is None"),
        (['{"prompt": "a", "y": ["1"]}'], {"answer_field": "y"}, "p.jsonl:1: y is ['1']"),
        (['{"prompt": "a", "k": true}'], {"id_field": "k"}, "p.jsonl:1: k is True"),
        (['{"prompt": "a", "k": 1}', '{"prompt": "b", "k": 1}'], {"id_field": "k"}, "line 1"),
        ([], {}, "is empty"),
        (['{"prompt": "a"}'], {"skip": 1}, "no prompts are left after skip = 1"),
    ],
)
def test_a_bad_line_is_named_by_number(tmp_path, lines, fields, sentence):
    with pytest.raises(ConfigError) as caught:
        read_prompts(source(tmp_path, *lines, **fields))
    assert sentence in str(caught.value)


def test_a_missing_or_binary_file_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="cannot read prompts"):
        read_prompts(PromptFile(file=str(tmp_path / "absent.jsonl")))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read prompts"):
        read_prompts(PromptFile(file=str(tmp_path / "b.jsonl")))


def test_a_prompt_that_no_model_reads_is_refused_before_it_is_tokenized(tmp_path):
    with pytest.raises(ConfigError, match=r"p\.jsonl:1: prompt has 10,000,000 characters"):
        read_prompts(source(tmp_path, {"prompt": "a" * 10_000_000}))


def test_a_pipe_is_no_file_of_prompts(tmp_path):
    os.mkfifo(tmp_path / "p.jsonl")
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_prompts(PromptFile(file=str(tmp_path / "p.jsonl")))


def test_skip_and_limit_cut_disjoint_sets(tmp_path):
    lines = [{"prompt": str(i)} for i in range(9)]
    first = read_prompts(source(tmp_path, *lines, limit=4))
    rest = read_prompts(source(tmp_path, *lines, skip=4, limit=9))
    assert [p.text for p in first + rest] == [str(i) for i in range(9)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODELS / "teacher")


def test_chat_and_plain_templates_surround_the_prompt(tokenizer):
    chat = Renderer(tokenizer, Template(), MODELS / "teacher")
    assert tokenizer.decode(chat.render("1+2=")) == "1+2="
    plain = Renderer(tokenizer, Template(kind="plain", plain="q {prompt} a"), MODELS / "teacher")
    assert tokenizer.decode(plain.render("1+2=")) == "q 1+2= a"
    assert plain.stop_ids == (tokenizer.eos_token_id,)


@given(text=st.text("1+<eos>pad\n", max_size=30).map(lambda t: t + "<eos>" + t))
@settings(deadline=None, max_examples=50)
def test_special_token_strings_in_a_prompt_stay_text(tokenizer, text):
    renderer = Renderer(tokenizer, Template(), MODELS / "teacher")
    ids = renderer.render(text)
    special = {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id}
    assert not special & set(ids)
    assert len(ids) == len(text)  # one token per character, as text


def test_markup_tokens_stay_text_and_ordinary_added_tokens_stay_tokens():
    tokenizer = load_tokenizer(MODELS / "teacher")
    tokenizer.add_tokens(["<think>", "12", "  "])  # none of them special
    renderer = Renderer(tokenizer, Template(), MODELS / "teacher")
    for text in ("12  3", "a12"):
        assert renderer.render(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    thought = tokenizer.convert_tokens_to_ids("<think>")
    assert thought not in renderer.render("1<think>2")


def test_special_tokens_of_the_template_itself_are_special(tokenizer):
    template = Template(kind="plain", plain="<bos>{prompt}")
    ids = Renderer(tokenizer, template, MODELS / "teacher").render("<bos>1")
    assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (Template(kind="plain", plain="no place"), "exactly once"),
        (Template(stop_tokens=("<|im_end|>",)), "not in the vocabulary"),
    ],
)
def test_an_unusable_template_is_refused(tokenizer, template, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Renderer(tokenizer, template, MODELS / "teacher")


def test_a_template_that_drops_the_prompt_is_refused(tokenizer):
    tokenizer = load_tokenizer(MODELS / "teacher")
    tokenizer.chat_template = "always the same"
    with pytest.raises(ConfigError, match="drops, changes or repeats"):
        Renderer(tokenizer, Template(), MODELS / "teacher")


def test_the_first_differing_token_of_two_tokenizers_is_named(tokenizer):
    other = load_tokenizer(MODELS / "teacher")
    other.add_tokens(["zebra"])
    with pytest.raises(AlignmentError, match="first 'zebra', which is None and 48"):
        check_same_vocabulary(tokenizer, other, names=("a", "b"))


TRIMS = "{{ '<bos>' }}{% for m in messages %}{{ m['content'] | trim }}{% endfor %}{{ '=' }}"
BRANCHES = "{% for m in messages %}{% if m['content'][:1] == 'a' %}{{ '1' }}{% else %}{{ '2' }}"
BRANCHES += "{% endif %}{{ m['content'] }}{% endfor %}"


@given(text=st.text("ab \n", min_size=1, max_size=9))
@settings(deadline=None, max_examples=40)
@pytest.mark.parametrize("template", [TRIMS, BRANCHES])
def test_ids_are_those_of_the_models_own_template(template, text):
    """A template may trim the message or depend on its text."""
    tokenizer = load_tokenizer(MODELS / "teacher")
    tokenizer.chat_template = template
    messages = [{"role": "user", "content": text}]
    expected = tokenizer.apply_chat_template(messages, tokenize=False)
    expected = tokenizer(expected, add_special_tokens=False)["input_ids"]
    assert Renderer(tokenizer, Template(), MODELS / "teacher").render(text) == expected


def test_special_strings_stay_text_in_a_template_that_trims():
    tokenizer = load_tokenizer(MODELS / "teacher")
    tokenizer.chat_template = TRIMS
    ids = Renderer(tokenizer, Template(), MODELS / "teacher").render(" a<eos> ")
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == "a<unk>eos>="  # the vocabulary has no "<"
    assert tokenizer.eos_token_id not in ids
    tokenizer.chat_template = BRANCHES
    with pytest.raises(ConfigError, match="writes something else around it"):
        Renderer(tokenizer, Template(), MODELS / "teacher").render("a<eos>")


TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
)


def byte_tokenizer(folder, template=None, *, begins=True):
    """A tokenizer of bytes that puts <|bos|> before a text, saved and loaded."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    names = ["<|bos|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
    made.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", made.token_to_id("<|bos|>"))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|bos|>", eos_token="<|end|>", chat_template=template
    )
    fast.save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    "template",
    [
        Template(),
        Template(kind="plain", plain="Q: {prompt}\nA:"),
        Template(kind="plain", plain="<|bos|>Q: {prompt}\nA:"),
    ],
)
@pytest.mark.parametrize("text", ["hi", "<|im_end|> inside"])
def test_a_prompt_begins_once_where_the_tokenizer_begins_a_text(tmp_path, template, text):
    tokenizer = byte_tokenizer(tmp_path, "{{ bos_token }}" + TURNS)
    ids = Renderer(tokenizer, template, tmp_path).render(text)
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_without_a_first_token_adds_none(tmp_path):
    tokenizer = byte_tokenizer(tmp_path, begins=False)
    template = Template(kind="plain", plain="{prompt}")
    assert tokenizer.decode(Renderer(tokenizer, template, tmp_path).render("hi")) == "hi"


@pytest.mark.parametrize(
    ("system", "shown"), [(None, "Be kind."), ("", "<|im_start|>system\n<|im_end|>")]
)
def test_an_empty_system_message_is_one(tmp_path, system, shown):
    tokenizer = byte_tokenizer(tmp_path, DEFAULT + TURNS)
    text = tokenizer.decode(Renderer(tokenizer, Template(system=system), tmp_path).render("hi"))
    assert shown in text and ("Be kind." in text) == (system is None)


CONVERSATION = [
    Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"),
    Message("user", "c<|im_end|>d"),
]  # fmt: skip


@pytest.mark.parametrize("last", ["c", "c<|im_end|>d", " c<|im_end|> "])
def test_a_conversation_is_rendered_by_the_template_and_its_texts_stay_texts(tmp_path, last):
    tokenizer = byte_tokenizer(tmp_path, TURNS)
    renderer = Renderer(tokenizer, Template(), tmp_path)
    messages = [*CONVERSATION[:-1], Message("user", last)]
    ids = renderer.render_messages(messages)
    asked = [message._asdict() for message in messages]
    whole = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(ids) == whole
    end = tokenizer.get_vocab()["<|im_end|>"]
    assert ids.count(end) == 4, "only the template ends turns"


def test_one_message_of_a_user_is_a_prompt(tmp_path):
    renderer = Renderer(byte_tokenizer(tmp_path, TURNS), Template(system="S"), tmp_path)
    assert renderer.render_messages([Message("user", "a")]) == renderer.render("a")


def test_a_prompt_brings_its_own_system_message(tmp_path):
    tokenizer = byte_tokenizer(tmp_path, TURNS)
    renderer = Renderer(tokenizer, Template(system="of the recipe"), tmp_path)
    text = tokenizer.decode(renderer.render_messages(CONVERSATION))
    assert "Be brief." in text and "of the recipe" not in text


BLOCKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_wants_content_blocks_gets_them(tmp_path):
    text, blocks = byte_tokenizer(tmp_path / "a", TURNS), byte_tokenizer(tmp_path / "b", BLOCKS)
    wanted = Renderer(text, Template(), tmp_path / "a").render("hi")
    assert Renderer(blocks, Template(), tmp_path / "b").render("hi") == wanted


def test_a_plain_template_refuses_turns(tmp_path):
    renderer = Renderer(byte_tokenizer(tmp_path, TURNS), Template(kind="plain"), tmp_path)
    with pytest.raises(ConfigError, match=r"several messages, and template\.kind = 'plain' has no"):
        renderer.render_messages(CONVERSATION)


def metaspace_tokenizer(folder):
    """A SentencePiece-like tokenizer, whose decoder drops a space at the beginning."""
    pieces = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", "\u2581" * 2]
    pieces += [*"abcdefghijklmnopqrstuvwxyz()"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=[("\u2581", "\u2581")], byte_fallback=True, unk_token="<unk>"
        )
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([AddedToken(s, special=True) for s in ("<unk>", "</s>")])
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>").save_pretrained(folder)
    return load_tokenizer(folder)


def test_the_text_of_a_completion_keeps_its_first_space(tmp_path):
    tokenizer = metaspace_tokenizer(tmp_path / "sentencepiece")
    ids = [tokenizer.get_vocab()[piece] for piece in ["\u2581" * 2, *"abc"]]
    assert tokenizer.decode(ids) == " abc"
    assert continuation_text(tokenizer, ids) == "  abc"
    plain = byte_tokenizer(tmp_path / "bytes")
    for text in ("  abc", "abc", " ni\u00f1o \u4e2d"):
        assert continuation_text(plain, plain(text, add_special_tokens=False)["input_ids"]) == text
    assert continuation_text(plain, []) == ""
