//! Where a model comes from: a setting to files on this machine, checked before anything is loaded, so that what is wrong
//! is said in our words and at once.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    facts::Facts,
    gguf::Gguf,
    load::{KV_BLOCK, Loaded},
    place::Place,
    safetensors::Folder,
};
use crate::{
    dialect,
    engine::{
        EngineError, ModelInfo,
        model::{ModelSettings, SamplingDefaults},
    },
    model::{self, hub},
};

/// The default model is small and rambles at 1.
const DEFAULT_MODEL_TEMPERATURE: f32 = 0.4;

/// A checked model, ready to be loaded as often as there are slots.
pub struct Source {
    pub info: Arc<ModelInfo>,
    /// Bytes of keys and values a token takes.
    pub kv_bytes_per_token: u64,
    /// What one copy takes in memory, about.
    pub weight_bytes: u64,
    files: Files,
    /// Of the files with the weights, when they were checked.
    state: Vec<FileState>,
    place: Place,
}

enum Files {
    Gguf(Gguf),
    Folder(Folder),
}

/// Tells whether a file was replaced since.
#[derive(Debug, PartialEq)]
struct FileState {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Source {
    /// Finds and checks what `engine.models[index]` names; fetches it where it is on Hugging Face and not in the cache. Blocks,
    /// for as long as that takes.
    ///
    /// # Errors
    /// `Load`, naming the setting, the file, and what to do: it is missing, its sum is wrong, it is of an architecture the
    /// engine has not, has no chat template, or asks for what the engine does not do here.
    pub fn open(
        settings: &ModelSettings,
        index: usize,
        context_length: u32,
        place: &Place,
    ) -> Result<Self, EngineError> {
        let wrong = |reason: String| EngineError::Load(format!("engine.models[{index}]: {reason}"));
        if let Some((field, range)) = settings.sampling.wrong() {
            return Err(wrong(format!("sampling.{field} must be {range}")));
        }
        let path = find(settings).map_err(wrong)?;
        let files = if path.is_dir() {
            Files::Folder(Folder::open(&path, settings, place).map_err(wrong)?)
        } else {
            Files::Gguf(Gguf::open(&path, settings).map_err(wrong)?)
        };
        let weights = files.weights();
        if !settings.sha256.is_empty() {
            check_sum(weights, &settings.sha256).map_err(wrong)?;
        }
        let state: Vec<FileState> = weights.iter().map(|path| FileState::of(path)).collect();
        let created = state.iter().filter_map(|file| file.modified).max();
        let created = created.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |age| age.as_secs());
        let facts = files.facts();
        let bound = if context_length == 0 { u32::MAX } else { context_length };
        let mut advised = facts.sampling;
        if settings.model.is_empty() {
            advised.temperature = Some(DEFAULT_MODEL_TEMPERATURE);
        }
        if advised.wrong().is_some() {
            advised = SamplingDefaults::default();
        }
        let info = ModelInfo {
            id: if settings.id.is_empty() { name(settings, &path) } else { settings.id.clone() },
            aliases: settings.aliases.clone(),
            context_length: whole_blocks(facts.context_length.min(bound)),
            created,
            quantisation: Some(facts.quantisation.clone()),
            adapters: facts.adapters.clone(),
            sampling: settings.sampling.or(advised),
            dialect: dialect::detect(&facts.template),
        };
        let (kv_bytes_per_token, weight_bytes) = (facts.kv_bytes_per_token, facts.weight_bytes);
        Ok(Self { info: Arc::new(info), kv_bytes_per_token, weight_bytes, files, state, place: place.clone() })
    }

    /// Loads the weights and starts an engine for up to `running` sequences. Takes about a second for the default model;
    /// blocks the caller.
    ///
    /// # Errors
    /// `Load` with the engine's reason, or that the files are not those that were checked: a slot that is loaded later must
    /// not be another model.
    pub fn load(&self, running: usize) -> Result<Loaded, EngineError> {
        let failed = |reason: &dyn std::fmt::Display| {
            EngineError::Load(format!("cannot load {} from {}: {reason}", self.info.id, self.shown().display()))
        };
        if let Some(changed) = self.state.iter().find(|file| FileState::of(&file.path) != **file) {
            let path = changed.path.display();
            return Err(failed(&format_args!("{path} has changed since; reload the model to take the new one")));
        }
        let map = self.place.map(self.info.context_length, running);
        let paged = self.place.paged_attention()?;
        let pipeline = match &self.files {
            Files::Gguf(gguf) => {
                let (loader, paths) = gguf.loader();
                loader.load_model_from_path(&paths, &self.place.dtype(), &self.place.device, true, map, None, paged)
            }
            Files::Folder(folder) => folder.load(&self.place, map, paged),
        };
        Loaded::start(pipeline.map_err(|error| failed(&error))?, &self.place, running)
    }

    /// The path to name in messages.
    pub fn shown(&self) -> &Path {
        self.state.first().map_or(Path::new(""), |file| &file.path)
    }

    pub fn is_batch(&self) -> bool {
        self.place.is_batch
    }
}

impl Files {
    fn facts(&self) -> &Facts {
        match self {
            Self::Gguf(gguf) => &gguf.facts,
            Self::Folder(folder) => &folder.facts,
        }
    }

    fn weights(&self) -> &[PathBuf] {
        match self {
            Self::Gguf(gguf) => &gguf.parts,
            Self::Folder(folder) => &folder.weights,
        }
    }
}

impl FileState {
    fn of(path: &Path) -> Self {
        let meta = fs::metadata(path).ok();
        let bytes = meta.as_ref().map_or(0, |meta| meta.len());
        Self { path: path.to_owned(), bytes, modified: meta.and_then(|meta| meta.modified().ok()) }
    }
}

/// The file or folder on this machine.
fn find(settings: &ModelSettings) -> Result<PathBuf, String> {
    if settings.model.is_empty() {
        let dir = model::default_dir();
        return model::default_file(&dir).ok_or_else(|| {
            format!("the default model is not in {}; fetch it with `caudal model pull`", dir.display())
        });
    }
    let path = Path::new(&settings.model);
    if path.exists() {
        for (key, value) in [("file", &settings.file), ("revision", &settings.revision)] {
            if !value.is_empty() {
                return Err(format!("{key} is for Hugging Face repositories, and {} is here", path.display()));
            }
        }
        return Ok(path.to_owned());
    }
    if !hub::is_repository(&settings.model) {
        return Err(format!(
            "there is no file or folder {}; `caudal model pull` fetches the default model",
            path.display()
        ));
    }
    let repository = hub::Repository::new(&settings.model, &settings.revision);
    repository.model(&settings.file, &settings.uqff).map_err(|error| error.to_string())
}

/// The name of a model that was given none.
fn name(settings: &ModelSettings, path: &Path) -> String {
    let named = if path.is_dir() && hub::is_repository(&settings.model) { Path::new(&settings.model) } else { path };
    // `.` and `..` have none.
    let absolute = fs::canonicalize(named).unwrap_or_else(|_| named.to_owned());
    let name = if path.is_dir() { absolute.file_name() } else { named.file_stem() };
    name.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// The engine's KV grows by whole blocks, up to the model's end.
fn whole_blocks(context_length: u32) -> u32 {
    let block = KV_BLOCK as u32;
    if context_length > block { context_length - context_length % block } else { context_length }
}

fn check_sum(weights: &[PathBuf], expected: &str) -> Result<(), String> {
    let [file] = weights else {
        return Err(format!("sha256 is of one file, and the weights are {} files", weights.len()));
    };
    let found = model::sha256(file).map_err(|error| format!("{error:#}"))?;
    if found.eq_ignore_ascii_case(expected.trim()) {
        return Ok(());
    }
    Err(format!(
        "{} has the sha256 {found}, and {expected} was expected: it is damaged, or another file",
        file.display()
    ))
}
