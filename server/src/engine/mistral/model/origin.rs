//! The settings that a model is opened with, at the start and at each reload.

use super::{capacity::CapacityShare, device::ComputeDevice};
use crate::engine::model::ModelSettings;

#[derive(Clone)]
pub struct ModelOrigin {
    /// The index in `engine.models`.
    pub index: usize,
    pub settings: ModelSettings,
    /// The upper bound of the context, in tokens; 0: the model's own.
    pub context_length: u32,
    pub device: ComputeDevice,
    pub capacity: CapacityShare,
}
