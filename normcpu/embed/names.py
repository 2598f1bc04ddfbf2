# SPDX-License-Identifier: Apache-2.0
"""Any text as a C identifier: nothing else of a user's names reaches generated code, its comments or paths."""

from __future__ import annotations

import hashlib
import re

# Fit for an external name (C99, 5.2.4.1: 31 characters count) with something of ours behind it.
LONGEST = 24
SHORT = LONGEST - 9  # what stays of a longer name, before "_" and 8 digits of its hash

# What C, C++ or their libraries have taken, names that compilers define, and files that Windows does not make.
# C99, 7.26 reserves what begins with is, to, str, mem or wcs and a letter, and the functions of math.h by pattern.
TAKEN = frozenset(
    """
    abort abs acos acosh alarm alignas alignof alloca and and_eq arm asctime asin asinh asm assert atan atan2
    atanh atexit atof atoi atol auto aux bitand bitor bool break bsearch calloc case catch cbrt ceil char class
    clearerr clock close compl complex con concept const constexpr continue copysign cos cosh ctime decltype
    default delete difftime div do double else enum erf erfc errno exit exp exp2 explicit expm1 export extern
    fabs false fclose fdim feof ferror fflush fgetc fgetpos fgets final float floor fma fmax fmin fmod fopen for
    fork fprintf fputc fputs fread free freopen frexp friend fscanf fseek fsetpos ftell fwrite getc getchar
    getenv gets gmtime goto hypot i i386 if ilogb imaginary import index infinity inline int isatty j0 j1 jn
    kill labs ldexp ldiv lgamma linux llabs lldiv localtime log log10 log1p log2 logb long longjmp lrint lround
    main malloc mips mktime modf module mutable namespace nan nearbyint new nextafter noexcept normcpu not
    not_eq nul null nullptr offsetof open operator or or_eq override perror pipe pow printf private prn
    protected public putc putchar puts qsort raise rand read realloc register remainder remove remquo rename
    requires restrict return rewind rindex rint round scanf setbuf setjmp setvbuf short signal signed sin sinh
    sizeof sleep snprintf sparc sprintf sqrt srand sscanf static stderr stdin stdout struct switch system tan
    tanh template tgamma this throw time tmpfile tmpnam true trunc try typedef typeid typename typeof ungetc
    union unix unsigned using vax vfprintf virtual void volatile vprintf vsprintf wait while write xor xor_eq y0
    y1 yn
    """.split()  # noqa: SIM905
)
TAKEN_PATTERN = re.compile(
    r"(is|to|str|mem|wcs)[a-z]\w*|(com|lpt)\d|u?int\w*_(t|max|min|c)|(fe|lc|sig|pri|scn|normcpu)_\w*"
    r"|(s?size|ptrdiff|w?char|wint|time|clock|off|l?l?div|fpos|va|max_align|float|double)(_t|_list)"
)
OTHERS = re.compile(r"[^A-Za-z0-9]+")


def identifier(text: str, fallback: str = "net") -> str:
    """[A-Za-z][A-Za-z0-9_]*, at most LONGEST characters, no name that anybody else has: the same for the same text.

    >>> identifier("../conv1.weight"), identifier("while"), identifier('*/ system("rm");'), identifier("1×1")
    ('conv1_weight', 'net_while', 'system_rm', 'net_1_1')
    """
    if not isinstance(text, str):
        raise TypeError(f"name must be a str, got {type(text).__name__}")
    plain = OTHERS.sub("_", text).strip("_")
    if not plain:
        return fallback
    if not plain[0].isalpha() or _is_taken(plain):
        plain = f"{fallback}_{plain}"
    if len(plain) > LONGEST:
        plain = f"{plain[:SHORT].rstrip('_')}_{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return plain


class Names:
    """Identifiers of one file: the first comer has the plain one, the second _2, and so on.

    Those that differ in case alone are one, since macros and some file systems tell them not apart.
    behind: what is put behind a name to make others; taken: names that are ours.

    >>> names = Names()
    >>> names("bn.1"), names("bn/1"), names("BN_1")
    ('bn_1', 'bn_1_2', 'BN_1_3')
    """

    def __init__(self, behind: tuple[str, ...] = (), taken: tuple[str, ...] = ()) -> None:
        self._behind = ("", *behind)
        self._given = set(taken)

    def __call__(self, text: str, fallback: str = "net") -> str:
        plain = made = identifier(text, fallback)
        count = 1
        while not self._given.isdisjoint(self._all(made)):
            count += 1
            made = f"{plain}_{count}"
        self._given.update(self._all(made))
        return made

    def _all(self, name: str) -> list[str]:
        return [name.lower() + end for end in self._behind]


def _is_taken(plain: str) -> bool:
    lower = plain.lower()
    # sinf, sinl, and with them most of math.h's.
    return lower in TAKEN or lower.rstrip("fl") in TAKEN or TAKEN_PATTERN.fullmatch(lower) is not None
