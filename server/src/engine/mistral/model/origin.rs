//! What the model of one place is opened from, again and again.

use super::{capacity::CapacityShare, device::ComputeDevice};
use crate::engine::model::ModelSettings;

#[derive(Clone)]
pub struct ModelOrigin {
    /// Of the model in `engine.models`.
    pub index: usize,
    pub settings: ModelSettings,
    /// In tokens; 0: the model's own.
    pub context_length: u32,
    pub device: ComputeDevice,
    pub capacity: CapacityShare,
}
