//! Where a model comes from: a setting to files on this machine, checked before anything is loaded, so that what is wrong
//! is said in our words and at once.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use mistralrs_core::Pipeline;
use tokio::sync::Mutex;

use super::{facts::Facts, gguf::Gguf, origin::ModelOrigin, safetensors::WeightsFolder};
use crate::{
    dialect,
    engine::{
        EngineError, ModelInfo,
        kv::KvEncoding,
        model::{KvType, ModelSettings},
        text::model::TextModel,
    },
    model::{self, hub},
    wire::sampling::SamplingOptions,
};

/// The default model is small and rambles at 1.
const DEFAULT_MODEL_TEMPERATURE: f32 = 0.4;

/// A model whose weights are in memory.
pub type LoadedModel = Arc<Mutex<dyn Pipeline + Send + Sync>>;

/// A checked model, ready to be loaded, again if need be.
pub struct ModelSource {
    pub info: Arc<ModelInfo>,
    files: Files,
    /// Of the files with the weights, when they were checked.
    state: Vec<FileState>,
    pub origin: ModelOrigin,
}

enum Files {
    Gguf(Gguf),
    Folder(WeightsFolder),
}

/// Tells whether a file was replaced since.
#[derive(Debug, PartialEq)]
struct FileState {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl ModelSource {
    /// Finds and checks what `engine.models[index]` names; fetches it where it is on Hugging Face and not in the cache. Blocks,
    /// for as long as that takes.
    ///
    /// # Errors
    /// `Load`, naming the setting, the file, and what to do: it is missing, its sum is wrong, it is of an architecture the
    /// engine has not, has no chat template, or asks for what the engine does not do here.
    pub fn open(origin: ModelOrigin) -> Result<Self, EngineError> {
        let ModelOrigin { index, settings, context_length, device, .. } = &origin;
        let wrong = |reason: String| EngineError::load(format_args!("engine.models[{index}]: {reason}"));
        if let Some((field, range)) = settings.sampling.out_of_range() {
            return Err(wrong(format!("sampling.{field} must be {range}")));
        }
        let path = find(settings).map_err(wrong)?;
        let files = if path.is_dir() {
            Files::Folder(WeightsFolder::open(&path, settings, device).map_err(wrong)?)
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
        let bound = if *context_length == 0 { u32::MAX } else { *context_length };
        let mut advised = facts.sampling;
        if settings.model.is_empty() {
            advised.temperature = Some(DEFAULT_MODEL_TEMPERATURE);
        }
        if advised.out_of_range().is_some() {
            advised = SamplingOptions::default();
        }
        let info = ModelInfo {
            id: if settings.id.is_empty() { name(settings, &path) } else { settings.id.clone() },
            aliases: settings.aliases.clone(),
            context_length: facts.context_length.min(bound),
            created,
            quantisation: Some(facts.quantisation.clone()),
            adapters: facts.adapters.clone(),
            sampling: settings.sampling.or(advised),
            dialect: dialect::detect(&facts.template),
            shared_file: shared_file(settings, &files).map_err(wrong)?,
        };
        let mut source = Self { info: Arc::new(info), files, state, origin };
        source.fit_context();
        Ok(source)
    }

    /// Bounds the context by the memory for keys and values: what never fits is refused as too long.
    fn fit_context(&mut self) {
        let ModelOrigin { capacity, device, .. } = &self.origin;
        if !device.is_cpu() {
            // What the weights leave of a GPU's memory is known when they are loaded.
            return;
        }
        let tokens = capacity.tokens(self.info.context_length, self.kv_bytes_per_token(capacity.kv_type));
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let info = Arc::make_mut(&mut self.info);
        if tokens < info.context_length {
            tracing::warn!(
                model = info.id,
                context_length = info.context_length,
                kv_tokens = tokens,
                "engine.kv_mb has room for fewer tokens than the model's context; longer prompts are refused"
            );
            info.context_length = tokens;
        }
    }

    /// Bytes that the keys and values of a token take.
    pub fn kv_bytes_per_token(&self, kv_type: KvType) -> u64 {
        let bytes = match kv_type {
            KvType::F32 => 4,
            KvType::F16 => 2,
        };
        self.files.facts().kv_elements_per_token * bytes
    }

    /// Tells models apart whose keys and values differ.
    pub fn kv_name(&self) -> String {
        format!("{} {:?} {:?}", self.info.id, self.state, self.origin.capacity.kv_type)
    }

    /// [`Self::kv_name`] for all replicas: by what the files hold, and by all else that the bits of keys and values depend on.
    /// Reads the files: about a second for each GB.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn shared_kv_name(&self, encoding: KvEncoding) -> anyhow::Result<String> {
        let mut sums = self.state.iter().map(|file| model::sha256(&file.path)).collect::<anyhow::Result<Vec<_>>>()?;
        if let Files::Folder(folder) = &self.files {
            sums.push(model::sha256(&folder.path.join("config.json"))?);
            sums.extend(folder.adapter_configs().map(str::to_owned));
        }
        if let Some(changed) = self.state.iter().find(|file| FileState::of(&file.path) != **file) {
            anyhow::bail!("{} has changed since it was loaded", changed.path.display());
        }
        let kv_type = self.origin.capacity.kv_type;
        let made = (&self.origin.settings.isq, self.info.context_length, std::env::consts::ARCH);
        Ok(format!("{sums:?} {made:?} {kv_type:?} {encoding:?} {}", caudal_kernels::BITS_VERSION))
    }

    /// Reads the tokenizer and the chat template.
    ///
    /// # Errors
    /// `Load` with what is wrong with the file.
    pub fn text(&self) -> Result<TextModel, EngineError> {
        let text = match &self.files {
            Files::Gguf(_) => TextModel::of_gguf(self.shown()),
            Files::Folder(folder) => TextModel::of_folder(&folder.path, &folder.facts.template),
        };
        text.map_err(|reason| EngineError::Load(format!("engine.models[{}]: {reason}", self.origin.index)))
    }

    /// Loads the weights. Takes less than a second for the default model; blocks the caller.
    ///
    /// # Errors
    /// `Load` with mistral.rs's reason, or that the files are not those that were checked: what is loaded later must not be
    /// another model.
    pub fn load(&self) -> Result<LoadedModel, EngineError> {
        let failed = |reason: &dyn std::fmt::Display| {
            EngineError::load(format_args!("cannot load {} from {}: {reason}", self.info.id, self.shown().display()))
        };
        if let Some(changed) = self.state.iter().find(|file| FileState::of(&file.path) != **file) {
            let path = changed.path.display();
            return Err(failed(&format_args!("{path} has changed since; reload the model to take the new one")));
        }
        let ModelOrigin { device, capacity, .. } = &self.origin;
        let map = device.map(self.info.context_length, capacity.places);
        let paged = if device.is_cpu() && !caudal_kernels::attention::fits(self.files.facts().head_size) {
            None
        } else {
            let kv_mb = capacity.kv_mb(self.info.context_length, self.kv_bytes_per_token(capacity.kv_type));
            Some(device.paged_cache(capacity, kv_mb).map_err(|error| failed(&error))?)
        };
        let pipeline = match &self.files {
            Files::Gguf(gguf) => {
                let (loader, paths) = gguf.loader();
                loader.load_model_from_path(&paths, &device.dtype(), &device.0, true, map, None, paged)
            }
            Files::Folder(folder) => folder.load(device, map, paged),
        };
        pipeline.map_err(|error| failed(&error))
    }

    /// The path to name in messages.
    pub fn shown(&self) -> &Path {
        self.state.first().map_or(Path::new(""), |file| &file.path)
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
        let is_default = path.parent() == Some(model::default_dir().as_path());
        let hint = if is_default { "; `caudal model pull` fetches the default model" } else { "" };
        return Err(format!("there is no file or folder {}{hint}", path.display()));
    }
    let repository = hub::Repository::new(&settings.model, &settings.revision);
    repository.model(&settings.file, &settings.uqff).map_err(|error| error.to_string())
}

/// The file that clients may fetch, if they may.
fn shared_file(settings: &ModelSettings, files: &Files) -> Result<Option<PathBuf>, String> {
    if !settings.share.unwrap_or(settings.model.is_empty()) {
        return Ok(None);
    }
    match files {
        Files::Gguf(gguf) if gguf.parts.len() == 1 => Ok(gguf.parts.first().cloned()),
        _ => Err("share is for a model that is one GGUF file".into()),
    }
}

/// The name of a model that was given none.
fn name(settings: &ModelSettings, path: &Path) -> String {
    let named = if path.is_dir() && hub::is_repository(&settings.model) { Path::new(&settings.model) } else { path };
    // `.` and `..` have none.
    let absolute = fs::canonicalize(named).unwrap_or_else(|_| named.to_owned());
    let name = if path.is_dir() { absolute.file_name() } else { named.file_stem() };
    name.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
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
