//! Outputs constrained by a grammar, with llguidance on the model's own vocabulary.
//!
//! Grammars come from clients, so the compilation of a grammar and each step have bounds on size, work, time and stack.
//!
//! | file | owns |
//! |---|---|
//! | `limits` | every bound, and the checks of a grammar's text |
//! | `turns` | the order in which tenants' grammars are compiled |
//! | `compiler` | grammars to matchers, cached by tenant |
//! | `constraint` | one output's place in its grammar |
//! | `completion` | the tokens that complete an output from any place |

mod compiler;
mod completion;
mod constraint;
mod limits;
#[cfg(test)]
pub mod tests;
mod turns;

pub use compiler::Grammars;
pub use constraint::{Constraint, Pushed};
