//! Single rows of a quantised weight: embedding tables.

use std::{borrow::Cow, sync::Arc};

use candle_core::{
    CpuStorage, DType, Device, Result, Tensor, bail,
    quantized::{GgmlDType, QTensor},
};
use parking_lot::Mutex;

use super::{executor::Executor, storage::packed, tables, tiles::Packed};
use crate::team;

/// Rows that one chunk of work dequantises.
const CHUNK: usize = 16;

/// A table whose rows are dequantised when they are looked up, so that it takes only the memory of a quantised weight.
pub struct Rows {
    table: Table,
    n: usize,
    k: usize,
}

enum Table {
    Packed(Arc<Packed>),
    /// A type that cannot be packed.
    Plain(Arc<QTensor>),
}

impl Rows {
    /// Packs a table of shape (n, k), on all threads of the team. A weight with the same contents that is packed afterwards
    /// shares its memory. A table that was packed already is shared.
    ///
    /// # Errors
    /// The table is not a matrix, is not on the CPU, or is Q8_1, which cannot be dequantised.
    pub fn new(table: &Arc<QTensor>) -> Result<Self> {
        let (n, k) = table.shape().dims2()?;
        if !table.device().is_cpu() || table.dtype() == GgmlDType::Q8_1 {
            bail!("rows of a table of {:?} on {:?} cannot be looked up", table.dtype(), table.device().location())
        }
        let shared = packed(table).or_else(|| {
            let table = tables::share(Packed::new(table, team::run)?);
            tables::add(&table);
            Some(table)
        });
        let table = shared.map_or_else(|| Table::Plain(Arc::clone(table)), Table::Packed);
        Ok(Self { table, n, k })
    }

    /// The shape of the table.
    pub fn dims(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    /// Looks up the rows of `ids`, u32 of any shape S on the CPU. Returns f32 of shape (S, k).
    ///
    /// # Errors
    /// An id is not below n, or `ids` are not u32.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        if ids.dtype() != DType::U32 {
            bail!("ids of rows are u32, not {:?}", ids.dtype())
        }
        let numbers = ids.flatten_all()?.to_vec1::<u32>()?;
        if let Some(id) = numbers.iter().find(|id| **id as usize >= self.n) {
            bail!("row {id} of a table of {}", self.n)
        }
        let mut values = vec![0f32; numbers.len() * self.k];
        match &self.table {
            Table::Packed(table) => look_up(table, &numbers, &mut values, Executor::current()),
            Table::Plain(table) => {
                let (data, dtype) = (table.data()?, table.dtype());
                let bytes = self.k / dtype.block_size() * dtype.type_size();
                for (id, values) in numbers.iter().zip(values.chunks_exact_mut(self.k.max(1))) {
                    let row = &data[*id as usize * bytes..][..bytes];
                    let CpuStorage::F32(row) = dtype.from_data(Cow::Borrowed(row)).dequantize(self.k)? else {
                        bail!("rows of {dtype:?} are not dequantised to f32")
                    };
                    values.copy_from_slice(&row);
                }
            }
        }
        let mut shape = ids.dims().to_vec();
        shape.push(self.k);
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}

/// Writes the rows of `ids` to `values`, one after the other. All ids must be below the table's number of rows.
pub(crate) fn look_up(table: &Packed, ids: &[u32], values: &mut [f32], executor: Executor) {
    let parts: Vec<_> =
        ids.chunks(CHUNK).zip(values.chunks_mut(CHUNK * table.k)).map(|part| Mutex::new(Some(part))).collect();
    (executor.run)(parts.len(), &|part| {
        let part = parts[part].lock().take();
        let Some((ids, values)) = part else { return };
        ids.iter().zip(values.chunks_exact_mut(table.k)).for_each(|(id, values)| table.row(*id as usize, values));
    });
}
