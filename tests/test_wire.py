"""Frames: any split of the bytes gives the same messages, and bytes that are no messages are an error and no more."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolmagic import messages as ms
from poolmagic.errors import WireError
from poolmagic.wire import HEADER, MAX_FIELDS, MAX_PAYLOAD, Decoder, encode

ints = st.integers(-(2**63), 2**63)
spans = st.lists(st.tuples(ints, ints), max_size=4).map(tuple)
positions = st.lists(ints, max_size=4).map(tuple)
payloads = st.binary(max_size=200)
texts = st.text(max_size=20)
seconds = st.floats(0, 1e9)

STRATEGIES: dict[type[ms.Message], st.SearchStrategy[ms.Message]] = {
    ms.Function: st.builds(
        ms.Function, ints, ints, seconds, seconds, ints, positions, ints, st.booleans(), st.booleans(), payloads
    ),
    ms.Batch: st.builds(ms.Batch, ints, ints, ints, ints, payloads),
    ms.Withdraw: st.builds(ms.Withdraw, ints),
    ms.Cancel: st.builds(ms.Cancel, ints),
    ms.Forget: st.builds(ms.Forget, ints),
    ms.Resize: st.builds(ms.Resize, ints),
    ms.Dump: st.builds(ms.Dump, ints),
    ms.Stop: st.builds(ms.Stop),
    ms.Hello: st.builds(ms.Hello, ints),
    ms.Done: st.builds(ms.Done, ints, spans, positions, positions, seconds, payloads, payloads),
    ms.Returned: st.builds(ms.Returned, ints, spans),
    ms.Output: st.builds(ms.Output, ints, ints, texts, texts),
    ms.Dumped: st.builds(ms.Dumped, ints, payloads),
    ms.Fork: st.builds(ms.Fork, ints, ints),
    ms.Forked: st.builds(ms.Forked, ints, ints),
    ms.Gone: st.builds(ms.Gone, ints, ints, ints),
    ms.Preload: st.builds(ms.Preload, texts),
    ms.Preloaded: st.builds(ms.Preloaded, texts, ints, texts),
}
any_message = st.one_of(*STRATEGIES.values())
OUTPUT = ms.MESSAGES.index(ms.Output)
DONE = ms.MESSAGES.index(ms.Done)


def stream(some: list[ms.Message]) -> bytes:
    """Return messages as the bytes that travel."""
    return b"".join(piece for message in some for piece in encode(message)[0])


def frame(number: int, fields: bytes, payload: bytes = b"", *, magic: bytes = b"pm", version: int = 2) -> bytes:
    """Return a frame of any content."""
    return HEADER.pack(magic, version, number, 0, len(fields), len(payload)) + fields + payload


def read(data: bytes) -> list[ms.Message]:
    """Decode a whole stream."""
    decoder = Decoder()
    found = list(decoder.feed(data))
    decoder.finish()
    return found


def test_every_message_is_tried() -> None:
    """A new kind of message needs a strategy here."""
    assert set(ms.MESSAGES) == set(STRATEGIES)


@given(st.lists(any_message, max_size=6), st.data())
def test_any_split_of_the_stream_gives_the_same_messages(some: list[ms.Message], data: st.DataObject) -> None:
    """Bytes may arrive one by one, all at once or in any pieces."""
    whole = stream(some)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    decoder = Decoder()
    found: list[ms.Message] = []
    for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += decoder.feed(memoryview(whole)[start:stop])
    decoder.finish()
    assert some == found


@given(st.lists(any_message, min_size=1, max_size=3))
def test_the_stream_may_come_byte_by_byte(some: list[ms.Message]) -> None:
    """Each message is there as soon as its last byte is."""
    decoder = Decoder()
    whole = stream(some)
    found = [list(decoder.feed(whole[place : place + 1])) for place in range(len(whole))]
    assert some == [message for messages in found for message in messages]
    assert [some[-1]] == found[-1]


@given(st.lists(any_message, min_size=1, max_size=3), st.data())
def test_a_stream_that_ends_inside_a_frame_is_an_error(some: list[ms.Message], data: st.DataObject) -> None:
    """What was complete before it counts."""
    *before, last = some
    cut = data.draw(st.integers(1, len(stream([last])) - 1))
    decoder = Decoder()
    assert before == list(decoder.feed(stream(before) + stream([last])[:cut]))
    with pytest.raises(WireError, match="ended inside a frame"):
        decoder.finish()


@given(st.binary(max_size=100))
def test_garbage_is_an_error_and_nothing_else(garbage: bytes) -> None:
    """Bytes that are no frame are refused with the right exception, or more of them are waited for."""
    try:
        read(garbage)
    except WireError:
        return
    assert b"" == garbage


@given(st.sampled_from(range(len(ms.MESSAGES))), st.binary(max_size=40), payloads)
def test_fields_that_are_garbage_are_an_error(number: int, fields: bytes, payload: bytes) -> None:
    """A good header does not help."""
    try:
        found = read(frame(number, fields, payload))
    except WireError:
        return
    assert [ms.MESSAGES[number]] == [type(message) for message in found]


json_values = st.recursive(
    st.none() | st.booleans() | ints | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(st.sampled_from(range(len(ms.MESSAGES))), json_values | st.lists(json_values, max_size=6))
def test_fields_of_other_types_are_an_error(number: int, fields: Any) -> None:
    """What is decoded has the fields that its class says, so whoever gets it need not check again."""
    try:
        (found,) = read(frame(number, json.dumps(fields).encode()))
    except WireError:
        return
    assert [found] == read(stream([found]))


@given(any_message, st.data())
def test_one_wrong_byte_is_an_error_or_another_message(message: ms.Message, data: st.DataObject) -> None:
    """It is never a hang, and never another exception."""
    whole = bytearray(stream([message]))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    decoder = Decoder()
    try:
        found = list(decoder.feed(bytes(whole)))
        decoder.finish()
    except WireError:
        return
    assert 1 == len(found)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "not a frame of this protocol: it begins with b'HTTP'"),
        (frame(0, b"[]", magic=b"PM"), "not a frame"),
        (frame(0, b"[]", version=1), "not a frame"),
        (frame(len(ms.MESSAGES), b"[]"), f"kind {len(ms.MESSAGES)}"),
        (HEADER.pack(b"pm", 2, 0, 0, MAX_FIELDS + 1, 0), "cannot be"),
        (HEADER.pack(b"pm", 2, 0, 0, 0, MAX_PAYLOAD + 1), "cannot be"),
        (HEADER.pack(b"pm", 2, DONE, 1, 2, 0) + b"[]", "without its 1 descriptors"),
        (HEADER.pack(b"pm", 2, OUTPUT, 1, 0, 0), "Output has no payload"),
        (HEADER.pack(b"pm", 2, OUTPUT, 0, 0, 1), "Output has no payload"),
        (frame(OUTPUT, b""), "not JSON"),
        (frame(OUTPUT, b"\xff\xfe"), "not JSON"),
        (frame(OUTPUT, b"[" * 100_000), "not JSON"),
        (frame(OUTPUT, b"[" + b"9" * 5000 + b"]"), "not JSON"),
        (frame(OUTPUT, b"{}"), "Output has 4 fields"),
        (frame(OUTPUT, b'[1,2,"stdout"]'), "Output has 4 fields"),
        (frame(OUTPUT, b'[1,2.0,"stdout",""]'), "Output.position cannot be 2.0"),
        (frame(OUTPUT, b'[true,2,"stdout",""]'), "Output.run cannot be True"),
        (frame(OUTPUT, b'[1,2,"stdout",null]'), "Output.text cannot be None"),
        (frame(DONE, b'[1,[[1,2,3]],[],[],0.5,""]'), "Done.spans cannot be"),
        (frame(DONE, b'[1,[[1,true]],[],[],0.5,""]'), "Done.spans cannot be"),
        (frame(DONE, b'[1,[],[null],[],0.5,""]'), "Done.failed cannot be"),
        (frame(DONE, b"[1,[],[],NaN]"), "Done.* not JSON"),
        (frame(DONE, b"[1,[],[],Infinity]"), "Done.* not JSON"),
        (frame(DONE, b'[1,[],[],[],1e999,""]'), "Done.seconds cannot be inf"),
        (frame(DONE, b'[1,[],[],[],-1.0,""]'), "Done.seconds cannot be -1.0"),
        (frame(0, b"[1,0,0.0,0.0,7,[],0,1,true]"), "Function.seeds_globals cannot be 1"),
        (frame(DONE, b'[1,[],[],[],0.5,"AAA"]'), "Done has a field that is not base 64"),
        (frame(DONE, b'[1,[],[],[],0.5,"A A="]'), "Done has a field that is not base 64"),
        (frame(DONE, b"[1,[],[],[],0.5,null]"), "Done.timings cannot be None"),
    ],
)
def test_a_refusal_says_what_is_wrong(data: bytes, text: str) -> None:
    """Each way to be no message has its sentence."""
    with pytest.raises(WireError, match=text):
        read(data)


def test_an_error_is_final() -> None:
    """After it nothing can be trusted: every later feed raises the same, with the good bytes as with the bad."""
    decoder = Decoder()
    good = stream([ms.Stop()])
    assert [ms.Stop()] == list(decoder.feed(good))
    with pytest.raises(WireError) as first:
        list(decoder.feed(good[:-1] + b"garbage that is long enough"))
    for data in (good, b"", b"garbage"):
        with pytest.raises(WireError) as later:
            list(decoder.feed(data))
        assert first.value is later.value
    decoder.finish()  # the error has been told


def test_messages_before_the_error_are_delivered() -> None:
    """What a worker sent before its stream broke is still good."""
    arriving = Decoder().feed(stream([ms.Hello(1), ms.Stop()]) + b"no frame, but long enough for one")
    assert [ms.Hello(1), ms.Stop()] == [next(arriving), next(arriving)]
    with pytest.raises(WireError):
        next(arriving)


def test_memory_follows_what_arrived_and_not_what_a_header_claims() -> None:
    """A header that announces a tebibyte costs nothing."""
    decoder = Decoder()
    tracemalloc.start()
    try:
        for _ in decoder.feed(HEADER.pack(b"pm", 2, DONE, 0, MAX_FIELDS, MAX_PAYLOAD) + bytes(10_000)):
            raise AssertionError("a message of nothing")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_a_large_payload_is_not_copied_on_its_way_out() -> None:
    """It is a piece of its own; a small one travels in the same piece as its header."""
    large, small = bytes(1 << 20), b"small"
    (_, piece), _ = encode(ms.Function(1, 0, 0.0, 0.0, 0, (), 0, False, False, large))
    assert large is piece
    assert 1 == len(encode(ms.Function(1, 0, 0.0, 0.0, 0, (), 0, False, False, small))[0])
    message = ms.Function(1, 0, 0.0, 0.0, 0, (), 0, False, False, large)
    assert [message] == read(stream([message]))


def test_fields_that_are_too_long_are_refused_by_the_sender() -> None:
    """Else the receiver would take the frame for garbage, and its sender for mad."""
    with pytest.raises(WireError, match="Output is too long to send"):
        encode(ms.Output(1, 1, "stdout", "x" * MAX_FIELDS))
