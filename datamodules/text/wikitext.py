"""WikiText, read from its unpacked folders."""

from __future__ import annotations

from datamodules.text.corpus import Corpus


class WikiText2(Corpus):
    """WikiText-2: 2,088,628, 217,646 and 245,569 words (ends of lines counted), 33,278 distinct.

    The files are searched in ``wikitext-2`` below the root folder and in the root folder. Arguments are those of
    :class:`Corpus`.

    Source: Merity, Xiong, Bradbury and Socher, "Pointer Sentinel Mixture Models", ICLR 2017.
    """

    folders = ("wikitext-2", ".")
    own_names = ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens")


class WikiText103(WikiText2):
    """WikiText-103: 103,227,021, 217,646 and 245,569 words (ends of lines counted), 267,735 distinct.

    The files are searched in ``wikitext-103`` below the root folder and in the root folder. Arguments are those of
    :class:`Corpus`. An adaptive softmax (``--model.adaptive_cutoffs``) is recommended.

    Source: Merity, Xiong, Bradbury and Socher, "Pointer Sentinel Mixture Models", ICLR 2017.
    """

    folders = ("wikitext-103", ".")
