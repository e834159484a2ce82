"""Which texts go on, and which are done: beam search, random draws, and words that would repeat an n-gram.

Beam search. Of the 2·beam most probable continuations of a prompt's texts, those among the first ``beam`` that end in
``</s>`` are done, and the first ``beam`` that do not go on. A prompt is done when ``beam`` of its texts are. With a
beam of 1 this is greedy decoding.

Random draws. The next token of each text is drawn by p^(1/T), among all words or the most probable ones. Each text has
random numbers of its own, a function of seed, prompt and text: it does not matter which prompts are computed together.
A number becomes a token by the inverse of the cumulative distribution, in the order of the ids.

Sources: Fan et al., 2018 (the K most probable); Holtzman et al., 2020 (the fewest that have probability p together).
R rows: texts that go on, V words.
"""

from collections.abc import Collection, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from fairseq.data.dictionary import EOS
from fairseq.generate.config import GenerationConfig
from fairseq.generate.hypotheses import Partial

# Words that a nucleus is looked for among before all are sorted, which takes as long as a small model.
NUCLEUS_AT_FIRST = 1024


class BeamSearch:
    """Chooses by probability.

    Args:
        beam: texts that are followed at once for each prompt.
        num_prompts: in the batch.
        ends: ids of which any ends a text.
    """

    def __init__(self, beam: int, num_prompts: int, ends: Collection[int] = (EOS,)) -> None:
        self.beam, self.ends = beam, ends
        self._num_done = [0] * num_prompts

    def step(self, live: Sequence[Partial], log_p_RV: Tensor, worth_RV: Tensor) -> tuple[list[Partial], list[Partial]]:
        """Returns the texts that go on, and those that are done; both name their parents.

        Args:
            live: the texts of the R rows, those of a prompt side by side.
            log_p_RV: ln p of each next token.
            worth_RV: the same with penalties taken off, −inf for what is forbidden.
        """
        width = min((1 + len(self.ends)) * self.beam, worth_RV.shape[1])
        best = torch.topk(worth_RV, width, dim=1)
        log_p = log_p_RV.gather(1, best.indices).tolist()
        worth, tokens = best.values.tolist(), best.indices.tolist()
        going_on, done = list[Partial](), list[Partial]()
        for prompt, group in groupby(range(len(live)), key=lambda row: live[row].prompt):
            rows = list(group)
            # Sorting is stable: of equals, the earlier row's goes first.
            places = [(row, i) for row in rows for i in range(width) if worth[row][i] > -torch.inf]
            places.sort(key=lambda place: -(live[place[0]].total + worth[place[0]][place[1]]))
            found = [
                live[row].followed_by(tokens[row][i], log_p[row][i], worth[row][i], row)
                for row, i in places[: (1 + len(self.ends)) * self.beam]
            ]
            ended = [text for text in found[: self.beam] if text.tokens[-1] in self.ends]
            if not found:  # everything is forbidden: what there is, is all
                ended = [live[row] for row in rows]
            ended = ended[: self.beam - self._num_done[prompt]]
            done += ended
            self._num_done[prompt] += len(ended)
            if self._num_done[prompt] < self.beam:
                going_on += [text for text in found if text.tokens[-1] not in self.ends][: self.beam]
        return going_on, done


class Sampler:
    """Chooses at random.

    Args:
        config: how many texts, and among which words.
        seed: of the run.
        ids: number of each prompt in the run.
        ends: ids of which any ends a text.
    """

    def __init__(self, config: GenerationConfig, seed: int, ids: Sequence[int], ends: Collection[int] = (EOS,)) -> None:
        self.config, self.ends = config, ends
        self._random = [[np.random.default_rng([seed, idx, text]) for text in range(config.beam)] for idx in ids]

    def step(self, live: Sequence[Partial], log_p_RV: Tensor, worth_RV: Tensor) -> tuple[list[Partial], list[Partial]]:
        """Returns the texts that go on, and those that are done; both name their parents.

        The first step makes every prompt's texts out of the prompt.

        Args:
            live: the texts of the R rows.
            log_p_RV: ln p of each next token.
            worth_RV: the same with penalties taken off, −inf for what is forbidden.
        """
        config = self.config
        kept_RV = kept(worth_RV.double() / config.temperature, config.sampling_topk, config.sampling_topp)
        below_RV = torch.exp(kept_RV - kept_RV.amax(1, keepdim=True)).cumsum(1)
        going_on, done = list[Partial](), list[Partial]()
        for row, text in enumerate(live):
            if worth_RV[row].amax() == -torch.inf:  # everything is forbidden: what there is, is all
                done.append(text)
                continue
            total = float(below_RV[row, -1])
            last = int(torch.searchsorted(below_RV[row], total))  # the last word with any weight
            for stream in [text.stream] if text.tokens else range(config.beam):
                number = self._random[text.prompt][stream].random() * total
                token = min(int(torch.searchsorted(below_RV[row], number, right=True)), last)
                log_p, worth = float(log_p_RV[row, token]), float(worth_RV[row, token])
                following = text.followed_by(token, log_p, worth, row, stream)
                (done if token in self.ends else going_on).append(following)
        return going_on, done


def kept(log_p_RV: Tensor, topk: int, topp: float) -> Tensor:
    """Returns log-probabilities, not normalised, with −inf for words that are not drawn.

    Args:
        log_p_RV: of every word, need not be normalised.
        topk: the K most probable words are kept; −1 keeps all.
        topp: the fewest most probable words whose probabilities add up to this are kept; −1 keeps all.
    """
    if topk == -1 and topp == -1:
        return log_p_RV
    num_words = log_p_RV.shape[1]
    best_RK, word_RK = torch.topk(log_p_RV, min(topk if topk != -1 else NUCLEUS_AT_FIRST, num_words), dim=1)
    if topp != -1:
        log_total_R1 = log_p_RV.logsumexp(1, keepdim=True)
        if bool(((best_RK - log_total_R1).exp().sum(1) < topp).any()):  # a nucleus of more words than expected
            best_RK, word_RK = torch.topk(log_p_RV, num_words, dim=1)
        p_RK = (best_RK - log_total_R1).exp()
        best_RK = best_RK.masked_fill(p_RK.cumsum(1) - p_RK >= topp, -torch.inf)
    return torch.full_like(log_p_RV, -torch.inf).scatter(1, word_RK, best_RK)


def repeating_tokens(tokens: Sequence[int], n: int) -> set[int]:
    """Returns the ids after which the last ``n`` tokens would stand twice in ``tokens``; none for n = 0."""
    if n == 0:
        return set()
    before = tuple(tokens[len(tokens) - n + 1 :])
    return {tokens[i + n - 1] for i in range(len(tokens) - n + 1) if tuple(tokens[i : i + n - 1]) == before}
