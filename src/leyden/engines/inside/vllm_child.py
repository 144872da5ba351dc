"""vLLM in a process of its own: frames come in at stdin and go out at stdout.

    python vllm_child.py LIFE    (LIFE: the number of the pipe that guard.py watches)

The first frame holds the engine's arguments; then requests come at any time, each with a number
``n``, and results go as soon as they are there. Frames that go out have a ``kind``: ``ready``,
once; ``beat``, every second while it loads and works, or it is taken for dead; ``made``, ``scores``
or ``refused`` (with ``why``) for a request ``n``; ``fatal`` (with ``why``) before it ends by an
error.
It uses no tokenizer: token ids in, token ids and log-probs out.
"""

import inspect
import os
import queue
import sys
import threading
import time
from typing import Any, BinaryIO

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from frames import Frame, read_frame, write_frame  # type: ignore
from guard import split_off_guard  # type: ignore

BEAT_SECONDS = 1.0
END = None


def main() -> None:
    split_off_guard(int(sys.argv[1]))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no frame
    source = os.fdopen(os.dup(0), "rb")
    first = read_frame(source)
    if first is not None:
        try:
            serve(source, out, first[0])
        except BrokenPipeError:
            pass
        except BaseException as error:
            write_frame(out, {"kind": "fatal", "why": f"{type(error).__name__}: {error}"[:2000]})
            raise


def serve(source: BinaryIO, out: BinaryIO, settings: dict[str, Any]) -> None:
    """Load the model, and answer requests until the stream ends."""
    os.environ.update(settings["environment"])
    loaded = threading.Event()
    beats = threading.Thread(target=_beat_until, args=(loaded, out), daemon=True)
    beats.start()
    try:
        engine = make_engine(settings["arguments"])
    finally:
        loaded.set()
        beats.join()
    write_frame(out, {"kind": "ready"})
    requests: queue.Queue[Frame | None] = queue.Queue()
    threading.Thread(target=_receive, args=(source, requests), daemon=True).start()
    beat, ended = time.monotonic(), False
    while not ended or engine.has_unfinished_requests():
        while not ended and not (requests.empty() and engine.has_unfinished_requests()):
            request = requests.get()
            if request is END:
                ended = True
            else:
                add(engine, out, *request)
        if engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    send(out, output)
        if time.monotonic() - beat > BEAT_SECONDS:
            beat = time.monotonic()
            write_frame(out, {"kind": "beat"})


def _beat_until(loaded: threading.Event, out: BinaryIO) -> None:
    while not loaded.wait(BEAT_SECONDS):
        write_frame(out, {"kind": "beat"})


def _receive(source: BinaryIO, requests: "queue.Queue[Frame | None]") -> None:
    while (frame := read_frame(source)) is not None:
        requests.put(frame)
    requests.put(END)


def make_engine(arguments: dict[str, Any]) -> Any:
    """The engine, whose sampled log-probs are those after temperature and nucleus."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    missing = [name for name in arguments if name not in EngineArgs.__dataclass_fields__]
    if "flat_logprobs" not in inspect.signature(SamplingParams).parameters:
        missing.append("SamplingParams.flat_logprobs")
    if missing:
        import vllm

        raise ValueError(f"vLLM {vllm.__version__} does not know {', '.join(missing)}")
    return LLMEngine.from_engine_args(EngineArgs(**arguments))


def add(engine: Any, out: BinaryIO, header: dict[str, Any], arrays: list[Any]) -> None:
    """Give the engine a request. One that it refuses is answered at once."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    prompt = TokensPrompt(prompt_token_ids=arrays[0].tolist())
    fixed = {"detokenize": False, "flat_logprobs": True, "ignore_eos": True}
    try:
        parameters = SamplingParams(
            **header["parameters"], **fixed, output_kind=RequestOutputKind.FINAL_ONLY
        )
        engine.add_request(str(header["n"]), prompt, parameters)
    except Exception as error:  # of any kind: it says what is wrong with this request
        write_frame(out, {"kind": "refused", "n": header["n"], "why": str(error)[:500]})


def send(out: BinaryIO, output: Any) -> None:
    """The ids and log-probs of a finished request; scores where it asked for those of its prompt.

    Of a prompt, each position gives the actual token first and then the likeliest, so that a row of
    K + 1 entries may hold a token twice.
    """
    import numpy as np

    header: dict[str, Any] = {"n": int(output.request_id)}
    if output.prompt_logprobs is not None:
        flat = output.prompt_logprobs
        header["kind"] = "scores"
        starts, ends = np.array(flat.start_indices), np.array(flat.end_indices)
        counts = (ends - starts).astype(np.int32)
        ids, logp = flat.token_ids, flat.logprobs
    else:
        made = output.outputs[0]
        header |= {"kind": "made", "reason": made.finish_reason}
        counts = np.ones(len(made.token_ids), np.int32)
        ids, logp = made.token_ids, made.logprobs.logprobs
    write_frame(out, header, np.array(ids, np.int32), np.array(logp, np.float32), counts)


if __name__ == "__main__":
    main()
