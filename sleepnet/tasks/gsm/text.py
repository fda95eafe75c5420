"""What a problem of gsm says: its question, its sentences, and its solution step by step. Everything is tokens."""
from sleepnet.tasks.gsm.graph import Statement
from sleepnet.tasks.gsm.problem import Affine, Problem, affine
from sleepnet.tasks.gsm.words import PARTS, SOLUTION, Vocabulary, kind_of, phrase_length

_PHRASE = [phrase_length(kind) for kind in range(4)]
_PREFIX = {"": 0, "times": 2, "more": 3}


def longest_name(depth: int) -> int:
    """Returns the most tokens of a name."""
    return max(map(phrase_length, range(4 if depth == 3 else 1)))


def longest_problem(ops: int, depth: int) -> int:
    """Returns a bound on the tokens of a problem's question and sentences."""
    name = longest_name(depth)
    # `The number … is not known .`; an edge adds a name and `c more than`, or half of that and `the sum of … and …`
    return (ops + 1) * (name + 4) + ops * (name + 3) + 2 * (name + 3)


def longest_solution(ops: int, depth: int, reverse: bool) -> int:
    """Returns a bound on the tokens of a step-by-step solution."""
    value, factor = (5, 7) if reverse else (1, 1)  # `2 x + 1` at most takes brackets
    steps = (ops + 1) * (longest_name(depth) + 3 + value) + ops * (factor + 1 + 4)
    return 1 + steps + (value + 7) * reverse


def shortest_sentence() -> int:
    """Returns the tokens of the sentence that fills a rest: `The number of jars in Ashford equals 3 .`"""
    return phrase_length(0) + 3


def sentence_length(kind: int, sources: list[int], prefix: str) -> int:
    """Returns the tokens of a sentence, from the kinds alone."""
    amount = sum(map(_PHRASE.__getitem__, sources)) + 4 * (len(sources) == 2) if sources else 1
    return _PHRASE[kind] + 2 + amount + _PREFIX[prefix]


class Writer:
    """Writes in a vocabulary."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        for word, text in {"the": "the", "The": "The", "equals": "equals", "and": "and", "stop": ".", "unknown": "is not known ."}.items():
            setattr(self, f"_{word}", vocabulary.tokens(text))
        self._join = {join: vocabulary.tokens(f"the {join} of") for join in ("sum", "difference")}
        self._prefix = {"": [], "more": vocabulary.tokens("more than"), "times": vocabulary.tokens("times")}

    def question(self, problem: Problem) -> list[int]:
        """Returns `What is the number of jars in Ashford ?`"""
        return self.vocabulary.tokens("What is") + self.vocabulary.phrase(problem.asked) + self.vocabulary.tokens("?")

    def sentences(self, problem: Problem) -> list[list[int]]:
        """Returns a problem's sentences."""
        hidden = problem.asked if problem.reverse else None
        told = [self._subject(s.subject) + self._unknown if s.subject == hidden else self.sentence(s) for s in problem.statements if not s.total]
        if problem.reverse:
            told.append(self.sentence(Statement(problem.top, number=problem.values[problem.top])))
        return told

    def sentence(self, statement: Statement) -> list[int]:
        """Returns `The number of jars in Ashford equals 2 more than the sum of … and … .`"""
        phrase, number = self.vocabulary.phrase, [self.vocabulary.number + statement.number]
        words = self._subject(statement.subject) + self._equals
        if not statement.sources:
            return words + number + self._stop
        if statement.prefix:
            words += number + self._prefix[statement.prefix]
        first, *second = map(phrase, statement.sources)
        words += self._join[statement.join] + first + self._and + second[0] if second else first
        return words + self._stop

    def _subject(self, name: int) -> list[int]:
        return self._The + self.vocabulary.phrase(name)[1:]

    def solution(self, problem: Problem) -> list[int]:
        """Returns `Solution: The number of … = 3 . The number of … = 2 + 3 = 5 .` in solving order; in reverse with x for what is hidden."""
        forms = affine(problem)
        steps = [SOLUTION]
        for s in reversed(problem.statements):
            hidden = problem.reverse and s.subject == problem.asked
            working, result = "x" if hidden else _working(s, forms), _written(forms[s.subject])
            phrase = " ".join(self.vocabulary.words[token] for token in self._subject(s.subject))
            steps.append(f"{phrase} = {working}" + (f" = {result}" if working != result else "") + " .")
        if problem.reverse:
            steps.append(f"{_written(forms[problem.top])} = {problem.values[problem.top]} . x = {problem.answer} .")
        return self.vocabulary.tokens(" ".join(steps))


def _written(form: Affine, inside: bool = False) -> str:
    """Returns a + b·x in words, in brackets where it stands `inside` something else and is more than one number."""
    a, b = form
    if b == 0:
        return str(a)
    slope = "x" if abs(b) == 1 else f"{abs(b)} × x"
    if a == 0 and b > 0:
        text = slope
    elif b < 0:
        text = f"{a} - {slope}"
    else:
        text = f"{slope} {'+' if a > 0 else '-'} {abs(a)}"
    return f"( {text} )" if inside and " " in text else text


def _working(s: Statement, forms: dict[int, Affine]) -> str:
    """Returns what a step computes."""
    if not s.sources:
        return str(s.number)
    alone = len(s.sources) == 1 and not s.prefix
    terms = [_written(forms[source], inside=not alone) for source in s.sources]
    if kind_of(s.subject) == PARTS:
        text = " + ".join(f"{count} × {each}" for count, each in zip(terms[::2], terms[1::2]))
    else:
        text = (" - " if s.join == "difference" else " + ").join(terms)
    if s.prefix:
        text = f"( {text} )" if s.join else text
        text = f"{s.number} {'+' if s.prefix == 'more' else '×'} {text}"
    return text
