//! Outputs held to a grammar, by llguidance over the model's own vocabulary.
//!
//! Grammars come from clients, so compiling one is bounded in size, work, time and stack, and so is each step.
//!
//! | file | owns |
//! |---|---|
//! | `limits` | every bound, and the checks of a grammar's text |
//! | `turns` | whose grammar is compiled next |
//! | `compiler` | grammars to matchers, cached by tenant |
//! | `held` | one output's place in its grammar |
//! | `completion` | the tokens that complete an output from any place |

mod compiler;
mod completion;
mod held;
mod limits;
#[cfg(test)]
pub mod tests;
mod turns;

pub use compiler::Grammars;
pub use held::{Constraint, Pushed};
