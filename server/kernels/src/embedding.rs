//! Embedding tables that stay quantised.

use std::borrow::Cow;

use candle_core::{CpuStorage, Result, Tensor, bail, quantized::QTensor};

/// The embedding table of a GGUF file. On the CPU a row is dequantised when it is looked up, so the table takes the bytes that
/// it has in the file; elsewhere the whole table is dequantised once.
pub struct Embedding(Table);

enum Table {
    Quantised(QTensor),
    Dense(Tensor),
}

impl Embedding {
    /// `table`: (tokens, width).
    ///
    /// # Errors
    /// The table has another rank, or cannot be dequantised on its device.
    pub fn new(table: QTensor) -> Result<Self> {
        table.shape().dims2()?;
        let device = table.device();
        Ok(Self(if device.is_cpu() { Table::Quantised(table) } else { Table::Dense(table.dequantize(&device)?) }))
    }

    /// The rows of `ids`: u32 of any shape S. Returns f32 of shape (S, width).
    ///
    /// # Errors
    /// An id is outside the table.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (flat, mut shape) = (ids.flatten_all()?, ids.dims().to_vec());
        let table = match &self.0 {
            Table::Quantised(table) => table,
            Table::Dense(table) => {
                shape.push(table.dim(1)?);
                return table.index_select(&flat, 0)?.reshape(shape);
            }
        };
        let (tokens, width) = table.shape().dims2()?;
        let (data, dtype) = (table.data()?, table.dtype());
        let row_bytes = width / dtype.block_size() * dtype.type_size();
        let mut rows = Vec::with_capacity(flat.elem_count() * width);
        for id in flat.to_vec1::<u32>()? {
            let start = id as usize * row_bytes;
            let Some(row) = data.get(start..start + row_bytes) else { bail!("token {id} is not one of {tokens}") };
            match dtype.from_data(Cow::Borrowed(row)).dequantize(width)? {
                CpuStorage::F32(row) => rows.extend_from_slice(&row),
                _ => bail!("a row that is not f32"),
            }
        }
        shape.push(width);
        Tensor::from_vec(rows, shape, ids.device())
    }
}
