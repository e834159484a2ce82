"""A saved retrieval as one HTML page: the text coloured by gain or harm, every token with its neighbours.

``scores`` computes the columns, ``groups`` says where the gain comes from, ``texts`` opens the texts, ``pack`` chooses
and packs what goes into the page, ``page`` puts it together, ``build`` is the command. The page itself is
template.html, report.css and the scripts beside them, in the order of ``page.SCRIPTS``.
"""
