//! Routes the CPU computations of mistral.rs and candle to our kernels, through the hooks that our patch adds to candle-core.

use std::sync::Arc;

use candle_core::{
    Result, Tensor,
    hooks::{self, Embedding, HOOKS, Hooks},
    quantized::{QTensor, QuantizedType},
};
use caudal_kernels::{
    attention::{self, Cache},
    dense,
    elementwise::{self, Activation},
    memory, product, team,
};

/// Installs the kernels for the process. `threads`: how many threads compute; 0: one for each usable core.
pub fn install(threads: usize) {
    memory::keep_large_apart();
    team::set_size(threads);
    HOOKS.get_or_init(|| Hooks {
        pack,
        matmul: dense::product,
        embedding: |table| {
            let table = product::Rows::new(&Arc::new(table))?;
            Ok(Embedding(Arc::new(move |ids| table.rows(ids))))
        },
        paged_attention,
        attention: |q, k, v, mask, params| attention::dense(q, k, v, mask, &scores(params)),
        rms_norm: elementwise::rms_norm,
        act_mul: |gate, up, activation| {
            let activation = match activation {
                hooks::Activation::Silu => Activation::Silu,
                hooks::Activation::Gelu => Activation::Gelu,
                hooks::Activation::GeluTanh => Activation::GeluTanh,
                hooks::Activation::Relu => Activation::Relu,
            };
            elementwise::act_mul(gate, up, activation)
        },
        rope: |q, k, cos, sin, positions, interleaved| elementwise::rope(q, k, (cos, sin), positions, interleaved),
    });
}

#[cfg(not(test))]
fn pack(weight: &Arc<QTensor>) -> Option<Box<dyn QuantizedType>> {
    product::pack(weight)
}

/// Whether weights stay unpacked. Set while mistral.rs writes a file, because it writes the bytes of a packed weight as they are.
#[cfg(test)]
pub static UNPACKED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[cfg(test)]
fn pack(weight: &Arc<QTensor>) -> Option<Box<dyn QuantizedType>> {
    if UNPACKED.load(std::sync::atomic::Ordering::SeqCst) { None } else { product::pack(weight) }
}

fn paged_attention(q: &Tensor, k: &Tensor, v: &Tensor, step: &hooks::Paged, params: &hooks::Scores) -> Result<Tensor> {
    let hooks::Paged { keys, values, tables, lens, counts, slots } = *step;
    attention::paged(q, k, v, &Cache { keys, values, tables, lens, counts, slots }, &scores(params))
}

fn scores(params: &hooks::Scores) -> attention::Scores {
    attention::Scores { scale: params.scale, softcap: params.softcap, window: params.window }
}
