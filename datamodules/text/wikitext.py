"""WikiText, from its unpacked folders."""

from __future__ import annotations

from datamodules.text.corpus import Corpus


class WikiText2(Corpus):
    """WikiText-2: 2,088,628, 217,646 and 245,569 words (ends of lines counted), 33,278 different ones.

    The files are looked for in ``wikitext-2`` below the root folder and in the root folder itself. Arguments are those
    of :class:`Corpus`.

    Source: Merity, Xiong, Bradbury and Socher, "Pointer Sentinel Mixture Models", ICLR 2017.
    """

    folders = ("wikitext-2", ".")
    own_names = ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens")


class WikiText103(WikiText2):
    """WikiText-103: 103,227,021, 217,646 and 245,569 words (ends of lines counted), 267,735 different ones.

    The files are looked for in ``wikitext-103`` below the root folder and in the root folder itself. Arguments are
    those of :class:`Corpus`. Take an adaptive softmax (``--model.adaptive_cutoffs``).

    Source: Merity, Xiong, Bradbury and Socher, "Pointer Sentinel Mixture Models", ICLR 2017.
    """

    folders = ("wikitext-103", ".")
