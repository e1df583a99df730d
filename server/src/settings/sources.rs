//! The sources of settings: the documented defaults, files, the environment, `--set`. Finds the place that set a setting, and
//! never returns a value.

use std::{
    collections::HashMap,
    env,
    path::{Path, PathBuf},
};

/// The documented defaults.
pub const DEFAULTS: &str = include_str!("../../../config/caudal.toml");

/// The prefix of environment variables with settings.
pub const ENVIRONMENT: &str = "CAUDAL__";

/// The sources beside the defaults: files in order, the environment, then `section.setting=value` overrides.
#[derive(Debug, Default)]
pub struct Sources {
    pub files: Vec<PathBuf>,
    pub overrides: Vec<String>,
}

/// The given sources beside the defaults, the earliest first.
#[derive(Default)]
pub struct Given<'a> {
    /// The paths and the texts of the files.
    pub files: Vec<(&'a Path, String)>,
    pub overrides: &'a [String],
}

impl Given<'_> {
    /// Returns the last place that sets `path`, or a table around it.
    pub fn place(&self, path: &[String]) -> Option<String> {
        let sets = |key: &str| {
            let names: Vec<String> = key.split('.').map(|name| name.trim().to_owned()).collect();
            path.starts_with(&names)
        };
        if self.overrides.iter().any(|assignment| sets(key_of(assignment))) {
            return Some("--set".into());
        }
        let variables = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let mut variables = variables.filter(|name| {
            let key = name.strip_prefix(ENVIRONMENT).map(|key| key.to_lowercase().replace("__", "."));
            key.is_some_and(|key| sets(&key))
        });
        if let Some(name) = variables.next() {
            return Some(format!("the environment's {name}"));
        }
        let mut files = self.files.iter().rev();
        files.find_map(|(file, text)| Some(format!("{}, line {}", file.display(), line_of(text, path)?)))
    }
}

/// Returns the part of an assignment that can be the name of a setting.
pub fn key_of(assignment: &str) -> &str {
    let end = assignment.find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).unwrap_or(assignment.len());
    assignment.get(..end).unwrap_or_default()
}

/// Writes the path of a setting in the notation of the documentation: `engine.models[0].id`.
pub fn shown(path: &[String]) -> String {
    path.iter().fold(String::new(), |mut shown, name| {
        if name.parse::<usize>().is_ok() {
            return shown + "[" + name + "]";
        }
        if !shown.is_empty() {
            shown.push('.');
        }
        shown + name
    })
}

/// Returns the number of the line of a TOML file that sets `path`, or the smallest table around it.
fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let mut section: Vec<String> = Vec::new();
    let mut members: HashMap<String, usize> = HashMap::new();
    let mut best: Option<(usize, usize)> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let set = if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.split_once("]]")) {
            let next = members.entry(name.0.trim().to_owned()).and_modify(|member| *member += 1).or_default();
            section = names(name.0);
            section.push(next.to_string());
            section.clone()
        } else if let Some((name, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = names(name);
            section.clone()
        } else if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            [section.clone(), names(key)].concat()
        } else {
            continue;
        };
        if path.starts_with(&set) && best.is_none_or(|(length, _)| set.len() >= length) {
            best = Some((set.len(), number + 1));
        }
    }
    best.map(|(_, line)| line)
}

fn names(key: &str) -> Vec<String> {
    key.split('.').map(|name| name.trim().trim_matches(['"', '\'']).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_that_of_the_setting_or_of_the_table_around_it() {
        let text = "# a comment = 1\n[server]\nbind = 1\n\n[[engine.models]]\nid = 1\n[[engine.models]]\nmodel = \"x\"\n\
                    id = 2\n[auth]\nkeys = [{key = 1}]\n";
        let line = |path: &str| line_of(text, &names(path));
        assert_eq!(line("server.bind"), Some(3));
        assert_eq!(line("server.workers"), Some(2), "the table");
        assert_eq!([line("engine.models.0.id"), line("engine.models.1.id")], [Some(6), Some(9)]);
        assert_eq!(line("auth.keys.0.tenant"), Some(11));
        assert_eq!(line("store.kind"), None);
    }
}
