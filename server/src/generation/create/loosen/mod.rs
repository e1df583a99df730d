//! Loosens schemas until the grammar of the output compiles: drops the constraints that cannot be compiled. If the schema is
//! strict, it refuses the request instead, with the path of the constraint.

use serde_json::{Value, json};

use crate::{
    dialect::{
        lark,
        schema::{self, Level, Loosened, Refused},
    },
    engine::{EngineError, Grammar, Rules},
    generation::create::grammar::{SCHEMA, grammar, parameters_of, refused},
    store::Header,
    wire::{error::WireError, format::Format},
};

/// The maximum of places in schemas whose constraints are compiled one by one, to find those that cannot be.
const MAX_SITES: usize = 64;

/// Compiles a grammar; see [`crate::engine::Engine::check`].
pub type Check<'c> = dyn Fn(&Grammar) -> Result<(), EngineError> + 'c;

/// The reason why no grammar was found.
#[derive(Debug)]
pub enum Failed {
    /// The request is wrong.
    Refused(WireError),
    /// The engine cannot compile the grammar, or is busy.
    Engine(EngineError),
}

/// An attempt to make a grammar compile.
enum Step {
    DropCulprits,
    Lower(Level),
}

/// A schema of the request.
struct SchemaSource {
    /// The function's name; empty for the text's format.
    name: String,
    /// The field that has the schema.
    param: String,
    schema: Value,
    strict: bool,
}

/// Notes in `header.holding` the constraints that do not apply to the output, so that the grammar compiles. Blocks while grammars
/// are compiled.
///
/// # Errors
/// A strict schema or a grammar of the client cannot be compiled, or the engine is busy.
pub fn loosen(mut header: Header, check: &Check) -> Result<Header, Failed> {
    let mut steps = [Step::DropCulprits, Step::Lower(Level::Shape), Step::Lower(Level::Any)].into_iter();
    loop {
        let Some(grammar) = grammar(&header).map_err(Failed::Refused)? else { return Ok(header) };
        match check(&grammar) {
            Ok(()) => return Ok(header),
            Err(EngineError::Grammar(reason)) => match steps.next() {
                Some(Step::DropCulprits) => drop_culprits(&mut header, check)?,
                Some(Step::Lower(level)) => lower(&mut header, level),
                None => return Err(Failed::Engine(EngineError::Grammar(reason))),
            },
            Err(error) => return Err(Failed::Engine(error)),
        }
    }
}

/// Leaves out the constraints that cannot be compiled. A schema that still cannot be compiled is reduced to its shape.
fn drop_culprits(header: &mut Header, check: &Check) -> Result<(), Failed> {
    let mut sites = MAX_SITES;
    for source in sources(header) {
        let mut loosened = header.holding.get(&source.name).cloned().unwrap_or_default();
        let Some(reason) = compile(header, held(&source, &loosened)?, check)? else { continue };
        for site in schema::sites(&source.schema).map_err(|why| wrong(&source, &why))? {
            let Some(left) = sites.checked_sub(1) else { break };
            sites = left;
            for keyword in culprits(header, &site, check)? {
                loosened.dropped.insert(schema::join(&site.path, &keyword));
            }
        }
        if source.strict {
            let path = loosened.dropped.first().cloned().unwrap_or_default();
            return Err(wrong(&source, &Refused { path, reason: format!("cannot be held to: {reason}") }));
        }
        if loosened.dropped.is_empty() || compile(header, held(&source, &loosened)?, check)?.is_some() {
            loosened = Loosened { level: Level::Shape, ..Loosened::default() };
        }
        header.holding.insert(source.name, loosened);
    }
    Ok(())
}

/// Returns the constraints of a place that have to be left out so that the others compile.
fn culprits(header: &Header, site: &schema::Site, check: &Check) -> Result<Vec<String>, Failed> {
    let mut left = site.schema.clone();
    let mut dropped = Vec::new();
    if compile(header, left.clone(), check)?.is_none() {
        return Ok(dropped);
    }
    for keyword in &site.keywords {
        let alone = json!({"type": site.schema["type"], (keyword): site.schema[keyword]});
        if compile(header, alone, check)?.is_some() {
            left.as_object_mut().map(|members| members.shift_remove(keyword));
            dropped.push(keyword.clone());
        }
    }
    for keyword in &site.keywords {
        if dropped.contains(keyword) || compile(header, left.clone(), check)?.is_none() {
            continue;
        }
        left.as_object_mut().map(|members| members.shift_remove(keyword));
        dropped.push(keyword.clone());
    }
    Ok(dropped)
}

/// Reduces all schemas that are not strict to at most `level`.
fn lower(header: &mut Header, level: Level) {
    for source in sources(header).into_iter().filter(|source| !source.strict) {
        let loosened = header.holding.entry(source.name).or_default();
        if loosened.level < level {
            *loosened = Loosened { level, ..Loosened::default() };
        }
    }
}

fn held(source: &SchemaSource, loosened: &Loosened) -> Result<Value, Failed> {
    schema::hold(&source.schema, loosened, source.strict).map_err(|why| wrong(source, &why))
}

fn wrong(source: &SchemaSource, why: &Refused) -> Failed {
    Failed::Refused(refused(&source.param, why))
}

/// Compiles a schema alone. Returns the reason if it cannot be compiled.
fn compile(header: &Header, schema: Value, check: &Check) -> Result<Option<String>, Failed> {
    let rules = Rules::JsonSchema(lark::compact(&schema));
    match check(&Grammar { tenant: header.tenant.as_str().into(), rules }) {
        Ok(()) => Ok(None),
        Err(EngineError::Grammar(reason)) => Ok(Some(reason)),
        Err(error) => Err(Failed::Engine(error)),
    }
}

/// Returns the schemas of the request that constrain the output.
fn sources(header: &Header) -> Vec<SchemaSource> {
    let spec = &header.spec;
    let mut sources = Vec::new();
    if let Format::JsonSchema(format) = &spec.text.format {
        let (name, param, schema) = (String::new(), SCHEMA.to_owned(), format.schema.clone());
        sources.push(SchemaSource { name, param, schema, strict: format.strict == Some(true) });
    }
    for tool in spec.callable() {
        let schema = tool.parameters.clone().unwrap_or_else(|| json!({"type": "object"}));
        let (name, param) = (tool.name.clone(), parameters_of(tool));
        sources.push(SchemaSource { name, param, schema, strict: tool.strict == Some(true) });
    }
    sources
}

#[cfg(test)]
mod tests;
