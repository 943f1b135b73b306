"""Which documents: the candidate pool, the query set, the eval set and the base corpus."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from hpcscale.config.types import Count, Name, Section, Share

# The commit of `allenai/c4` that sweeps read unless they name another.
C4_REVISION = "1588ec454efa1a09f29cd18ddd04fe05fc8653a2"

Role = Literal["eval", "query", "base", "pool"]
#: In order of precedence: a document that two roles could have goes to the first.
ROLES: tuple[Role, ...] = ("eval", "query", "base", "pool")
#: Shares of a source that several roles read, where the file names none.
DEFAULT_SHARES: dict[Role, float] = {"eval": 0.1, "query": 0.05, "base": 0.25, "pool": 0.6}


class CorpusConfig(Section):
    """One role's documents.

    ``share`` is the part of the source, by hash of the text, that the role owns; roles that read
    the same source own disjoint parts. ``tokens`` caps what is kept, end-of-text included.
    """

    corpus: Literal["c4", "files", "stdlib"]
    tokens: Count | None = None
    share: Share | None = None
    domains: tuple[str, ...] | None = Field(default=None, min_length=1)
    # c4
    split: Literal["train", "validation"] = "train"
    variant: str = "en"
    revision: str = C4_REVISION
    # files
    path: tuple[str, ...] = ()
    text: str = "text"
    domain: str = "domain"
    # the order in which documents are taken up to `tokens`
    seed: int = Field(default=0, ge=0)
    shuffle_buffer: int = Field(default=10_000, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _accept_a_name(cls, value: Any) -> Any:
        return {"corpus": value} if isinstance(value, str) else value

    @field_validator("path", mode="before")
    @classmethod
    def _accept_one_path(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fields_fit_the_corpus(self) -> CorpusConfig:
        if self.corpus == "files" and not self.path:
            raise ValueError("corpus `files` needs `path`: a file, a directory or a glob")
        owners = {
            "path": ("files", "c4"),
            "text": ("files",),
            "domain": ("files",),
            "split": ("c4",),
            "variant": ("c4",),
            "revision": ("c4",),
            "shuffle_buffer": ("c4",),
        }
        for field, corpora in owners.items():
            default = type(self).model_fields[field].default
            if self.corpus not in corpora and getattr(self, field) != default:
                raise ValueError(f"`{field}` does not belong to corpus `{self.corpus}`")
        return self

    @property
    def source(self) -> tuple[object, ...]:
        """Roles with equal sources draw from the same documents."""
        if self.corpus == "c4":
            return ("c4", self.path, self.variant, self.split, self.revision)
        if self.corpus == "files":
            return ("files", self.path, self.text)
        return ("stdlib",)


class FilterConfig(Section):
    """A filter of the pool; keys beside ``filter`` are its own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    filter: Name

    @model_validator(mode="before")
    @classmethod
    def _accept_a_name(cls, value: Any) -> Any:
        return {"filter": value} if isinstance(value, str) else value

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class DataConfig(Section):
    """The four roles and how their tokens become sequences."""

    pool: CorpusConfig
    eval: CorpusConfig
    query: CorpusConfig | None = None
    base: CorpusConfig | None = None
    sequence_length: int = Field(default=1024, ge=8)
    packing: Literal["concat", "isolate"] = "concat"
    max_broken: float = Field(default=0.01, ge=0, le=1)
    filters: tuple[FilterConfig, ...] = ()

    def roles(self) -> dict[Role, CorpusConfig]:
        """The roles in use, in order of precedence."""
        return {role: spec for role in ROLES if (spec := getattr(self, role)) is not None}

    @model_validator(mode="after")
    def _shares_do_not_overlap(self) -> DataConfig:
        self.hash_ranges()
        return self

    def hash_ranges(self) -> dict[Role, tuple[float, float]]:
        """The part [low, high) of the unit interval of text hashes that each role owns.

        Raises ValueError where the roles of one source claim more than all of it.
        """
        ranges: dict[Role, tuple[float, float]] = {}
        roles = self.roles()
        for source in dict.fromkeys(spec.source for spec in roles.values()):
            sharing = [role for role, spec in roles.items() if spec.source == source]
            shares = _shares(sharing, roles)
            low = 0.0
            for role in sharing:
                # Rounded, so that 0.1 + 0.2 + 0.7 ends at 1 and not beside it.
                high = round(low + shares[role], 12)
                ranges[role] = (low, high)
                low = high
            if low > 1:
                claims = ", ".join(f"{role} {shares[role]:g}" for role in sharing)
                raise ValueError(
                    f"the splits overlap: {claims} add up to {low:g} of one source; "
                    "lower the shares to 1 in all, or give the roles different sources"
                )
        return ranges


def _shares(sharing: list[Role], roles: dict[Role, CorpusConfig]) -> dict[Role, float]:
    """Given shares as they are; the rest of the source goes to the others by their defaults."""
    given = {role: share for role in sharing if (share := roles[role].share) is not None}
    open_roles = [role for role in sharing if role not in given]
    left = 1 - sum(given.values())
    if open_roles and left <= 0:
        raise ValueError(
            f"the splits overlap: {', '.join(given)} take all of the source and "
            f"{', '.join(open_roles)} read it too; lower their shares or give `share` to each"
        )
    weight = sum(DEFAULT_SHARES[role] for role in open_roles)
    return {role: given.get(role, left * DEFAULT_SHARES[role] / (weight or 1)) for role in sharing}
