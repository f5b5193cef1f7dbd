"""GPT-2 (Radford et al. 2019), as published in openai-community/gpt2."""

from typing import Any, Unpack

from jaxtyping import Bool, Float
from torch import Tensor, nn

from diptych.backends.torch import cache as caches
from diptych.backends.torch import layers, ops
from diptych.backends.torch.cache import Cache
from diptych.backends.torch.generation import GenerationMixin
from diptych.backends.torch.pretrained import Build, PreTrainedModel
from diptych.core.models.gpt2 import GPT2Config
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithCrossAttentions, headed
from diptych.core.pretrained import Switches
from diptych.core.semantics import losses


class GPT2Attention(nn.Module):
    def __init__(self, config: GPT2Config, index: int, *, crosses: bool = False, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.index = index
        self.heads = config.n_head
        self.scale = config.attention_scale(index)
        self.upcast = config.reorder_and_upcast_attn
        self.c_attn = layers.Conv1D(config.n_embd, (2 if crosses else 3) * config.n_embd, **init)
        self.q_attn = layers.Conv1D(config.n_embd, config.n_embd, **init) if crosses else None
        self.c_proj = layers.Conv1D(config.n_embd, config.n_embd, **init)
        self.attn_dropout = layers.Dropout(config.attn_pdrop)
        self.resid_dropout = layers.Dropout(config.resid_pdrop)

    def keys(self, source: Float[Tensor, "B S D"]) -> tuple[Float[Tensor, "B N S H"], Float[Tensor, "B N S H"]]:
        """The keys and the values of an encoder's tokens."""
        heads = ops.split(self.c_attn(source), 2 * self.heads)
        return heads[:, : self.heads], heads[:, self.heads :]

    def forward(
        self,
        hidden_states: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "#K 1 #T S"] | None,
        encoder_hidden_states: Float[Tensor, "B U D"] | None = None,
        cache: Cache | None = None,
        *,
        causal: bool = False,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B N T S"] | None, Cache | None]:
        if self.q_attn is not None:
            query = ops.split(self.q_attn(hidden_states), self.heads)
            cache, key, value = caches.crossed(cache, self.index, encoder_hidden_states, self.keys)
        else:
            heads = ops.split(self.c_attn(hidden_states), 3 * self.heads)
            query, key, value = heads[:, : self.heads], heads[:, self.heads : -self.heads], heads[:, -self.heads :]
            cache, key, value = caches.extended(cache, self.index, key, value)
        attended, probabilities = ops.attention(
            query,
            key,
            value,
            mask,
            causal=causal,
            scale=self.scale,
            dropout=self.attn_dropout,
            rngs=rngs,
            weights=weights,
            upcast=self.upcast,
        )
        return self.resid_dropout(self.c_proj(attended), rngs), probabilities, cache


class GPT2MLP(nn.Module):
    def __init__(self, config: GPT2Config, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.activation = ops.ACTIVATIONS[config.activation_function]
        self.c_fc = layers.Conv1D(config.n_embd, config.intermediate_size, **init)
        self.c_proj = layers.Conv1D(config.intermediate_size, config.n_embd, **init)
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
        self,
        hidden_states: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "#B 1 #T S"] | None,
        encoder_hidden_states: Float[Tensor, "B U D"] | None = None,
        encoder_mask: Bool[Tensor, "#K 1 1 U"] | None = None,
        cache: Cache | None = None,
        *,
        causal: bool = False,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Tensor, "B T D"], tuple[Float[Tensor, "B N T _"] | None, ...], Cache | None]:
        """The output, the probabilities of self- and cross-attention, and the cache with these tokens."""
        attended, probabilities, cache = self.attn(
            self.ln_1(hidden_states), mask, None, cache, causal=causal, weights=weights, rngs=rngs
        )
        hidden_states = hidden_states + attended
        crossed = None
        crosses = caches.crosses(cache, encoder_hidden_states)
        if crosses and self.crossattention is not None and self.ln_cross_attn is not None:
            attended, crossed, cache = self.crossattention(
                self.ln_cross_attn(hidden_states),
                encoder_mask,
                encoder_hidden_states,
                cache,
                weights=weights,
                rngs=rngs,
            )
            hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.ln_2(hidden_states), rngs), (probabilities, crossed), cache


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
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        rngs: Any = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Reads a batch of texts from left to right.

        Args:
            input_ids: (B, T) integers, or else:
            inputs_embeds: (B, T, D) floats in their place.
            attention_mask: (B, T), 1 = attend; all are attended to without it. With a cache it may also speak of all
                tokens up to these.
            token_type_ids: (B, T) or (1, T) words, whose embeddings are added; none without it.
            position_ids: (B, T) or (1, T), counted without it, padding included.
            encoder_hidden_states: (B, S, D), which a decoder with cross-attention attends to.
            encoder_attention_mask: (B, S), 1 = attend; all are attended to without it.
            past_key_values: a cache of the tokens before these; `init_cache` makes one.
            use_cache: whether the cache comes back; so it does without it where one is given. True makes one, where
                none is given.
            output_attentions, output_hidden_states: whether these come too; the config's word without it.
            return_dict: False returns the record's `to_tuple()`.
            rngs: in JAX a key, needed in train mode; in torch None.

        Raises:
            InputError: an argument has another dtype or shape, an id is out of range, or the cache is full.
        """
        where, like, config = type(self).__name__, self._like(), self.config
        ops.boundary_rngs(where, rngs)
        input_ids, inputs_embeds = ops.boundary_words(
            where, input_ids, inputs_embeds, self.wte, like, size=config.vocab_size, width=config.n_embd
        )
        size = (inputs_embeds.shape[0], inputs_embeds.shape[1])
        opened = caches.opened(where, config.cache_shape, past_key_values, use_cache, attention_mask, size, like)
        encoder_hidden_states, encoder_mask = ops.boundary_memory(
            where,
            encoder_hidden_states,
            encoder_attention_mask,
            size[0],
            like,
            width=config.n_embd,
            crosses=config.add_cross_attention,
            seen=caches.crossed_size(opened.cache),
        )
        position_ids = caches.position_ids(
            where, position_ids, opened.start, size, like, limit=config.n_positions, field="n_positions"
        )

        hidden_states = inputs_embeds + self.wpe(position_ids)
        if token_type_ids is not None:
            words = config.vocab_size
            types = ops.boundary_rows(where, "token_type_ids", token_type_ids, size, like, words, "vocab_size")
            hidden_states = hidden_states + self.wte(types)
        hidden_states = self.drop(hidden_states, rngs)
        weights = self._option("output_attentions", output_attentions)
        cache, states, attentions = opened.cache, [], []
        for block in self.h:
            states.append(hidden_states)
            run = ops.checkpointed(block, self.gradient_checkpointing)
            hidden_states, probabilities, cache = run(
                hidden_states,
                opened.mask,
                encoder_hidden_states,
                encoder_mask,
                cache,
                causal=opened.causal,
                weights=weights,
                rngs=rngs,
            )
            attentions.append(probabilities)
        hidden_states = self.ln_f(hidden_states)
        states.append(hidden_states)
        selves, crosses = zip(*attentions, strict=True)
        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            past_key_values=caches.closed(cache, size[1], use_cache),
            hidden_states=tuple(states) if self._option("output_hidden_states", output_hidden_states) else None,
            attentions=selves if weights else None,
            cross_attentions=crosses if weights and crosses[0] is not None else None,
        )
        return self._returned(output, return_dict)


class GPT2LMHeadModel(GenerationMixin, PreTrainedModel):
    """The decoder with a head that predicts the next word."""

    def __init__(self, config: GPT2Config, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.transformer = GPT2Model(config, seed=None, **init)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else layers.Linear(config.n_embd, config.vocab_size, bias=False, **init)
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
        labels: Any = None,
        past_key_values: Any = None,
        *,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Unpack[Switches],
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """As `GPT2Model`, and:

        Args:
            labels: (B, T) words, -100 = not counted; a token is to predict the label of the one that follows it.
            logits_to_keep: of how many last tokens the logits come, 0 for all, or the places of some.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        memory, past = (encoder_hidden_states, encoder_attention_mask), past_key_values
        outputs: Any = self.transformer(*inputs, *memory, past, use_cache=use_cache, **self._inner(switches))
        states = ops.kept(outputs.last_hidden_state, logits_to_keep)
        logits = self.transformer.wte.attend(states) if self.lm_head is None else self.lm_head(states)
        loss = None
        if labels is not None:
            labels = ops.boundary_labels(type(self).__name__, "labels", labels, logits)
            loss = losses.causal(ops.xp, logits, labels)
        output = headed(CausalLMOutputWithCrossAttentions, outputs, loss=loss, logits=logits)
        return self._returned(output, switches.get("return_dict"))
