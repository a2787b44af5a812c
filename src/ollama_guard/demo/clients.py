"""The clients of the show: somebody who chats without end, and single questions."""

from __future__ import annotations

from ollama_guard.testing.fake import FakeOllama, Stream


class Chat:
    """One question after the other to one model, each answered by real streaming; `step` looks after it."""

    def __init__(self, fake: FakeOllama, model: str, words: int) -> None:
        self._fake, self._model, self._words_each = fake, model, words
        self._stream: Stream | None = None
        self._going = False
        self._words_before = 0
        self.whole = 0
        self.cut = 0

    @property
    def words(self) -> int:
        """Words that came so far, of all answers."""
        return self._words_before + _words(self._stream)

    @property
    def answering(self) -> bool:
        """Whether an answer is under way."""
        return self._stream is not None and self._stream.running

    def begin(self) -> None:
        """Ask, and go on asking."""
        self._going = True
        self.step()

    def end(self) -> None:
        """Ask no more; the answer under way goes on."""
        self._going = False

    def step(self) -> None:
        """Take in an answer that has ended, and ask again."""
        if self.answering:
            return
        if self._stream is not None:
            self._words_before += _words(self._stream)
            self.whole += self._stream.finished
            self.cut += not self._stream.finished
            self._stream = None
        if self._going:
            self._stream = self._fake.stream(self._model, self._words_each)

    def close(self) -> None:
        """Hang up."""
        self._going = False
        if self._stream is not None:
            self._stream.close()


def _words(stream: Stream | None) -> int:
    """The words of an answer; its last line carries the figures alone."""
    return 0 if stream is None else len(stream.lines) - stream.finished
