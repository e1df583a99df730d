//! Figures of a benchmark, as a table and as JSON.

use serde_json::{Map, Value, json};

/// One figure, with its target if there is one.
pub struct Figure {
    name: String,
    value: f64,
    target: &'static str,
}

impl Figure {
    pub fn new(name: impl Into<String>, value: f64, target: &'static str) -> Self {
        Self { name: name.into(), value, target }
    }
}

/// Prints a group of figures and puts them into the report.
pub fn tell(figures: Vec<Figure>, report: &mut Map<String, Value>) {
    println!();
    for Figure { name, value, target } in figures {
        println!("{name:<64} {value:>11.3}   {target}");
        report.insert(name, json!({"value": value, "target": target}));
    }
    println!();
}
