"""The configs of transformers' text encoders: CLIP's two kinds and T5's encoder; and of CLIP's tokenizer."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from diffalign.models.parts.configs.schema import Config, Epsilon, Few, Share, Size, Token, Vocabulary

Scale = Annotated[float, Field(ge=0, le=1e4)]
Dtype = Literal["float32", "float16", "bfloat16"] | None


class TransformersConfig(Config):
    """A config file that transformers wrote."""

    name_or_path: str | None = Field(None, alias="_name_or_path")
    architectures: list[str] | None = None
    transformers_version: str | None = None
    initializer_factor: Scale = 1.0
    """Used, like initializer_range, only in training from scratch."""
    initializer_range: Scale = 0.02
    dtype: Dtype = None
    """The stored weights' type; computations use the precision that this project asks for."""
    torch_dtype: Dtype = None
    use_cache: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: Token = None
    eos_token_id: Token = None
    pad_token_id: Token = None


class CLIPText(TransformersConfig):
    """text_encoder/config.json of CLIPTextModel and CLIPTextModelWithProjection."""

    model_type: Literal["clip_text_model"]
    vocab_size: Vocabulary
    hidden_size: Size
    intermediate_size: Size
    projection_dim: Size = 512
    num_hidden_layers: Few
    num_attention_heads: Few
    max_position_embeddings: Size
    hidden_act: Literal["quick_gelu", "gelu", "gelu_new", "relu", "silu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    attention_dropout: Share = 0.0
    dropout: Share = 0.0
    use_attention_mask: Literal[False] = False
    """Some pipelines mask a prompt's padding then."""

    def problems(self) -> list[str]:
        """Lists a width that doesn't divide into the heads, and special tokens beyond the vocabulary."""
        return divisions(self, self.hidden_size, self.num_attention_heads, "num_attention_heads") + tokens(
            self, self.vocab_size
        )


class T5(TransformersConfig):
    """text_encoder_3/config.json of T5EncoderModel."""

    neutral: ClassVar[frozenset[str]] = frozenset(
        # Keys for training, for the decoder, and for generating text.
        {
            *("decoder_start_token_id"),
            *("output_past", "n_positions", "task_specific_params"),
        }
    )
    model_type: Literal["t5"]
    vocab_size: Vocabulary
    d_model: Size
    d_kv: Size = 64
    d_ff: Size
    num_layers: Few
    num_heads: Few
    relative_attention_num_buckets: Few = 32
    relative_attention_max_distance: Size = 128
    dropout_rate: Share = 0.1
    classifier_dropout: Share = 0.0
    num_decoder_layers: Few | None = None
    is_decoder: bool = False
    is_encoder_decoder: bool = True
    scale_decoder_outputs: bool | None = None
    layer_norm_epsilon: Epsilon = 1e-6
    feed_forward_proj: Literal["relu", "gated-gelu", "gated-silu", "gelu"] = "relu"
    dense_act_fn: Literal["relu", "gelu", "gelu_new", "silu"] | None = None
    """Follows from feed_forward_proj, whatever it says."""
    is_gated_act: bool | None = None

    def problems(self) -> list[str]:
        """Lists special tokens beyond the vocabulary."""
        return tokens(self, self.vocab_size)


class CLIPTokenizerFile(Config):
    """The field of tokenizer_config.json on a prompt's length; the tokenizer's class applies the rest itself."""

    model_config = ConfigDict(extra="ignore")
    model_max_length: int | float | None = None
    tokenizer_class: Literal["CLIPTokenizer", "CLIPTokenizerFast"] | None = None


def divisions(config: Config, width: int, heads: int, key: str) -> list[str]:
    """Lists a number of heads that doesn't divide the width."""
    return [f"{key}: expected a divisor of hidden_size {width}, found {heads}"] if width % heads else []


def tokens(config: TransformersConfig, vocabulary: int) -> list[str]:
    """Lists special tokens that the vocabulary doesn't have."""
    return [
        f"{key}: expected a token below vocab_size {vocabulary}, found {value}"
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if (value := getattr(config, key)) is not None and value >= vocabulary
    ]
