"""Beam search: of the texts that continue those at hand by one token, the most probable go on.

Of the 2·beam most probable continuations of a prompt's texts, those among the first ``beam`` that end in ``</s>`` are
done, and the first ``beam`` that do not go on. A prompt is done when ``beam`` of its texts are. With a beam of 1 this
is greedy decoding. R rows: texts that go on, V words.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fairseq.hypotheses import Partial


class BeamSearch:
    """Chooses by probability.

    Args:
        beam: texts that are followed at once for each prompt.
        eos: id of ``</s>``.
        num_prompts: in the batch.
    """

    def __init__(self, beam: int, eos: int, num_prompts: int) -> None:
        self.beam, self.eos = beam, eos
        self._num_done = [0] * num_prompts

    def step(self, live: Sequence[Partial], log_p_RV: Tensor, worth_RV: Tensor) -> tuple[list[Partial], list[Partial]]:
        """Returns the texts that go on, and those that are done; both name their parents.

        Args:
            live: the texts of the R rows, those of a prompt side by side.
            log_p_RV: ln p of each next token.
            worth_RV: the same with penalties taken off, −inf for what is forbidden.
        """
        width = min(2 * self.beam, worth_RV.shape[1])
        best = torch.topk(worth_RV, width, dim=1)
        log_p = log_p_RV.gather(1, best.indices).tolist()
        worth, tokens = best.values.tolist(), best.indices.tolist()
        going_on: list[Partial] = []
        done: list[Partial] = []
        rows_of: dict[int, list[int]] = {}
        for row, text in enumerate(live):
            rows_of.setdefault(text.prompt, []).append(row)
        for prompt, rows in rows_of.items():
            # Sorting is stable: of equals, the earlier row's goes first.
            places = [(row, i) for row in rows for i in range(width) if worth[row][i] > -torch.inf]
            places.sort(key=lambda place: -(live[place[0]].total + worth[place[0]][place[1]]))
            found = [
                live[row].followed_by(tokens[row][i], log_p[row][i], worth[row][i], row)
                for row, i in places[: 2 * self.beam]
            ]
            ended = [text for text in found[: self.beam] if text.tokens[-1] == self.eos]
            if not found:  # everything is forbidden: what there is, is all
                ended = [live[row] for row in rows]
            ended = ended[: self.beam - self._num_done[prompt]]
            done += ended
            self._num_done[prompt] += len(ended)
            if self._num_done[prompt] < self.beam:
                going_on += [text for text in found if text.tokens[-1] != self.eos][: self.beam]
        return going_on, done
