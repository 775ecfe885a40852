"""What calls of models and providers are described by: the names that OpenTelemetry gives them, each once. Used by `model_calls`.

| name | follows |
|---|---|
| `gen_ai.*` | the semantic conventions for generative AI, which are in development: a name may change, and is changed here |
| `error.type` | the semantic conventions, stable |
| `rowcall.cost.*`, `rowcall.latency`, `rowcall.verdict` | nobody: the conventions have no attribute for cost, nor for what came of it |

See https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/
"""

from __future__ import annotations

from typing import Final

PROVIDER: Final = "gen_ai.provider.name"
MODEL: Final = "gen_ai.request.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
"""All of the input, that of the provider's cache among it."""
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
ERROR: Final = "error.type"
COST: Final = "rowcall.cost.amount"
CURRENCY: Final = "rowcall.cost.currency"
LATENCY: Final = "rowcall.latency"
"""In seconds."""
VERDICT: Final = "rowcall.verdict"
