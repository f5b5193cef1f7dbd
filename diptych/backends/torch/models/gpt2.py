"""GPT-2 (Radford et al. 2019), as published in openai-community/gpt2."""

from typing import Any, Unpack

from jaxtyping import Float
from torch import Tensor, nn

from diptych.backends.torch import layers, ops
from diptych.backends.torch.cache import LayerCache
from diptych.backends.torch.generation import GenerationMixin
from diptych.backends.torch.pretrained import Build, PreTrainedModel
from diptych.backends.torch.stacks import (
    AttentionOutput,
    LayerInputs,
    LayerOutput,
    cross_attention,
    layer_inputs,
    run_layers,
    sees_encoder,
    self_attention,
)
from diptych.core import caching
from diptych.core.calls import Switches, next_token_loss, passes_through
from diptych.core.models.gpt2 import GPT2Config
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithCrossAttentions


class GPT2Attention(nn.Module):
    def __init__(self, config: GPT2Config, index: int, *, crosses: bool = False, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.heads = config.n_head
        self.scale = config.attention_scale(index)
        self.upcast = config.reorder_and_upcast_attn
        self.c_attn = layers.LinearInOut(config.n_embd, (2 if crosses else 3) * config.n_embd, **init)
        self.q_attn = layers.LinearInOut(config.n_embd, config.n_embd, **init) if crosses else None
        self.c_proj = layers.LinearInOut(config.n_embd, config.n_embd, **init)
        self.attn_dropout = layers.Dropout(config.attn_pdrop)
        self.resid_dropout = layers.Dropout(config.resid_pdrop)

    def encoder_keys(self, states: Float[Tensor, "B S D"]) -> tuple[Float[Tensor, "B N S H"], Float[Tensor, "B N S H"]]:
        """The keys and values of an encoder's states."""
        heads = ops.split_heads(self.c_attn(states), 2 * self.heads)
        return heads[:, : self.heads], heads[:, self.heads :]

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> AttentionOutput:
        options = {"scale": self.scale, "upcast": self.upcast, "dropout": self.attn_dropout}
        if self.q_attn is not None:
            query = ops.split_heads(self.q_attn(hidden_states), self.heads)
            attended = cross_attention(query, self.encoder_keys, inputs, past, **options)
        else:
            heads = ops.split_heads(self.c_attn(hidden_states), 3 * self.heads)
            query, key, value = heads[:, : self.heads], heads[:, self.heads : -self.heads], heads[:, -self.heads :]
            attended = self_attention(query, key, value, inputs, past, **options)
        return attended._replace(states=self.resid_dropout(self.c_proj(attended.states), inputs.rngs))


class GPT2MLP(nn.Module):
    def __init__(self, config: GPT2Config, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.activation = ops.ACTIVATIONS[config.activation_function]
        self.c_fc = layers.LinearInOut(config.n_embd, config.intermediate_size, **init)
        self.c_proj = layers.LinearInOut(config.intermediate_size, config.n_embd, **init)
        self.dropout = layers.Dropout(config.resid_pdrop)

    def forward(self, hidden_states: Float[Tensor, "B T D"], rngs: Any = None) -> Float[Tensor, "B T D"]:
        return self.dropout(self.c_proj(self.activation(self.c_fc(hidden_states))), rngs)


class GPT2Block(nn.Module):
    def __init__(self, config: GPT2Config, index: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        width, eps = config.n_embd, config.layer_norm_epsilon
        self.ln_1 = layers.LayerNorm(width, eps, **init)
        self.attn = GPT2Attention(config, index, **init)
        crosses = config.add_cross_attention
        self.ln_cross_attn = layers.LayerNorm(width, eps, **init) if crosses else None
        self.crossattention = GPT2Attention(config, index, crosses=True, **init) if crosses else None
        self.ln_2 = layers.LayerNorm(width, eps, **init)
        self.mlp = GPT2MLP(config, **init)

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> LayerOutput:
        states, attention, past = self.attn(self.ln_1(hidden_states), inputs, past)
        hidden_states = hidden_states + states
        cross = None
        if self.crossattention is not None and self.ln_cross_attn is not None and sees_encoder(inputs, past):
            states, cross, past = self.crossattention(self.ln_cross_attn(hidden_states), inputs, past)
            hidden_states = hidden_states + states
        return LayerOutput(hidden_states + self.mlp(self.ln_2(hidden_states), inputs.rngs), attention, cross, past)


class GPT2Model(PreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: GPT2Config, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.wte = layers.Embedding(config.vocab_size, config.n_embd, **init)
        self.wpe = layers.Embedding(config.n_positions, config.n_embd, **init)
        self.drop = layers.Dropout(config.embd_pdrop)
        self.h = layers.ModuleList([GPT2Block(config, index, **init) for index in range(config.n_layer)])
        self.ln_f = layers.LayerNorm(config.n_embd, config.layer_norm_epsilon, **init)
        self.gradient_checkpointing = False
        self._finish(build)

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        past_key_values: Any = None,
        *,
        use_cache: bool | None = None,
        **switches: Unpack[Switches],
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Decodes a batch of token sequences.

        Args:
            input_ids: (B, T) integers, or else:
            inputs_embeds: (B, T, D) floats in their place.
            attention_mask: (B, T), 1 = attend, or with a cache over all tokens so far; by default all are attended to.
            token_type_ids: (B, T) or (1, T) token ids, whose embeddings are added; none by default.
            position_ids: (B, T) or (1, T); by default counted, padding included.
            encoder_hidden_states: (B, S, D), to which a decoder with cross-attention attends.
            encoder_attention_mask: (B, S), 1 = attend; by default all are attended to.
            past_key_values: a cache of the earlier tokens; `init_cache` makes one.
            use_cache: whether the cache is returned; by default if one is given. True creates one if none is given.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, an id is out of range, or the cache is full.
        """
        resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
        boundary.rngs(resolved["rngs"])
        vocabulary, width = config.vocab_size, config.n_embd
        _, hidden_states = boundary.words(input_ids, inputs_embeds, self.wte, size=vocabulary, width=width)
        size = (hidden_states.shape[0], hidden_states.shape[1])
        context = caching.begin(boundary, config.cache_shape, past_key_values, use_cache, attention_mask, size)
        states, crosses = (encoder_hidden_states, encoder_attention_mask), config.add_cross_attention
        context = caching.with_encoder(boundary, context, *states, size[0], width=width, crosses=crosses)
        position_ids = caching.position_ids(
            boundary, position_ids, context.start, size, limit=config.n_positions, field="n_positions"
        )
        hidden_states = hidden_states + self.wpe(position_ids)
        if token_type_ids is not None:
            hidden_states = hidden_states + self.wte(
                boundary.row_ids("token_type_ids", token_type_ids, size, size=vocabulary, table="vocab_size")
            )
        inputs = layer_inputs(context, resolved)
        output = run_layers(
            self.h,
            self.drop(hidden_states, inputs.rngs),
            inputs,
            context.cache,
            output_hidden_states=resolved["output_hidden_states"],
            gradient_checkpointing=self.gradient_checkpointing,
            final=self.ln_f,
        )
        output = output.replace(past_key_values=caching.finish(output.past_key_values, size[1], use_cache))
        return self._format_output(output, switches.get("return_dict"))


class GPT2LMHeadModel(GenerationMixin, PreTrainedModel):
    """The decoder with a head that predicts the next token."""

    def __init__(self, config: GPT2Config, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.transformer = GPT2Model(config, seed=None, **init)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else layers.Linear(config.n_embd, config.vocab_size, bias=False, **init)
        self._finish(build)

    @passes_through(GPT2Model)
    def forward(
        self, *inputs: Any, labels: Any = None, logits_to_keep: Any = 0, **keywords: Any
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """As `GPT2Model`, and:

        Args:
            labels: (B, T) token ids, -100 = ignored; each token predicts the next one.
            logits_to_keep: compute logits for this many last tokens only, 0 for all; or an array of positions.
        """
        outputs: Any = self.transformer(**self._base_keywords(inputs, keywords))
        states = self._tokens_to_keep(outputs.last_hidden_state, logits_to_keep)
        words, size = self.transformer.wte, self.config.vocab_size
        logits = layers.tied_logits(states, words, size) if self.lm_head is None else self.lm_head(states)
        return self._with_head(CausalLMOutputWithCrossAttentions, outputs, logits, labels, next_token_loss, keywords)
