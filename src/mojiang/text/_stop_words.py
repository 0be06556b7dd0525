"""Stop lists: closed classes only, since what a topic is about should not depend on a list.

English: articles, pronouns, prepositions, conjunctions, auxiliaries, the commonest adverbs of no content, and the
clitics that `_english.words` cuts off. Negations are not among them: `not good` is not `good`.
Chinese: particles, pronouns, prepositions, conjunctions, measure and direction words of no content. 不, 没 and 未 are
not among them.
"""

from __future__ import annotations

from typing import Final

_ENGLISH: Final = """
a an the
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself we us our
ours ourselves they them their theirs themselves one ones oneself who whom whose which what that this these those
somebody someone something anybody anyone anything everybody everyone everything
about above across after against along amid among amongst around as at before behind below beneath beside besides
between beyond by concerning despite down during except for from in inside into like near of off on onto out outside
over past per regarding since through throughout till to toward towards under underneath until unto up upon versus via
with within without
and but or so yet if because although though unless whereas while whether than then once
am is are was were be been being have has had having do does did doing done can could may might must shall should will
would ought ca wo
's 'm 'd 'll 're 've ’s ’m ’d ’ll ’re ’ve
all any both each either every few many more most much other others another several some such same own
again also already always almost ever even here there where when why how now just only quite rather really still too
very thus hence therefore however moreover furthermore meanwhile otherwise instead perhaps
"""

_CHINESE: Final = """
的 地 得 了 着 过 之 所 等 等等 们 似的 一样 般 一般 起见 而已 罢了 来说 来讲 的话 以来 来
啊 呀 吧 吗 呢 嘛 哦 哪 啦 哎 唉 嗯 呗 喔 哇
我 你 您 他 她 它 我们 你们 他们 她们 它们 咱 咱们 自己 自身 本人 人家 大家 彼此 别人 某 某些 某个 本 该 各 各个 每 每个
这 那 这个 那个 这些 那些 这样 那样 这里 那里 这儿 那儿 这么 那么 这种 那种 此 其 其他 其它 其中 其余 一切 有的 有些
谁 什么 怎么 怎样 怎么样 如何 哪 哪个 哪些 哪里 哪儿 几 多少 何 为什么 为何
在 从 自 自从 由 于 向 往 朝 朝着 沿 沿着 到 至 对 对于 关于 至于 就 把 将 被 给 让 叫 用 以 按 按照 依 依照 根据 据
通过 经 经过 为 为了 因 因为 由于 跟 和 与 同 及 以及 比 除 除了 随 随着 作为 凭 趁 当 离 连 替 鉴于
或 或者 还是 而 而且 并 并且 且 但 但是 可是 不过 然而 却 虽 虽然 尽管 即使 即便 如果 若 假如 要是 只要 只有 除非 无论
不管 不论 不仅 不但 不光 既 既然 所以 因此 因而 从而 于是 那么 则 然后 此外 另外 何况 况且
以便 以免 以至 否则 只是 就是 也就是 是 有 能 能够 可 可以 会 要 想 应 应该 应当 必须 得以
也 都 还 又 再 才 就 便 已 已经 曾 曾经 正 正在 将要 刚 刚刚 很 太 更 最 非常 十分 比较 较 挺 极 极其 尤其 特别
只 仅 仅仅 光
一 个 一个 一些 一种 些 点 种 次 时 时候 之后 之前 之间 之一 以后 以前 以上 以下 以内 以外 上 下 中 里 内 外 前 后 间
"""

ENGLISH: Final = frozenset(_ENGLISH.split())
CHINESE: Final = frozenset(_CHINESE.split())
LISTS: Final = {"en": ENGLISH, "zh": CHINESE}
