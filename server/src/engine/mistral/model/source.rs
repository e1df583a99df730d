//! Finds the files of a model on this machine and checks them before anything is loaded, so that faults are reported early, with
//! their remedies.

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

/// The default model is small: at a temperature of 1 its answers are incoherent.
const DEFAULT_MODEL_TEMPERATURE: f32 = 0.4;

/// A model whose weights are in memory.
pub type LoadedModel = Arc<Mutex<dyn Pipeline + Send + Sync>>;

/// A checked model. It can be loaded more than once.
pub struct ModelSource {
    pub info: Arc<ModelInfo>,
    files: Files,
    /// The files with the weights, as they were when they were checked.
    state: Vec<FileState>,
    pub origin: ModelOrigin,
}

enum Files {
    Gguf(Gguf),
    Folder(WeightsFolder),
}

/// The size and time of a file, from which a later change is detected.
#[derive(Debug, PartialEq)]
struct FileState {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl ModelSource {
    /// Finds and checks the files that `engine.models[index]` names. Fetches them if they are on Hugging Face and not in the
    /// cache; blocks until that is done.
    ///
    /// # Errors
    /// `Load`, naming the setting, the file and what to do: a file is missing or has a wrong checksum, the architecture is not
    /// supported, there is no chat template, or the engine cannot do what the settings ask for.
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

    /// Bounds the context by the memory for keys and values, so that a prompt that never fits is refused as too long.
    fn fit_context(&mut self) {
        let ModelOrigin { capacity, device, .. } = &self.origin;
        if !device.is_cpu() {
            // The memory of a GPU that the weights leave free is known only when they are loaded.
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
                "the memory for keys and values does not hold the model's whole context; longer prompts are refused; \
                raise engine.kv_mb"
            );
            info.context_length = tokens;
        }
    }

    /// The size of the keys and values of a token, in bytes.
    pub fn kv_bytes_per_token(&self, kv_type: KvType) -> u64 {
        let bytes = match kv_type {
            KvType::F32 => 4,
            KvType::F16 => 2,
        };
        self.files.facts().kv_elements_per_token * bytes
    }

    /// A name for the model's keys and values in this process: models whose keys and values differ have different names.
    pub fn kv_name(&self) -> String {
        format!("{} {:?} {:?}", self.info.id, self.state, self.origin.capacity.kv_type)
    }

    /// As [`Self::kv_name`], but the same on all replicas: made of the contents of the files, and of everything else that decides
    /// the bits of keys and values. Reads the files, which takes about a second for each GB.
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
    /// `Load` with the fault of the file.
    pub fn text(&self) -> Result<TextModel, EngineError> {
        let text = match &self.files {
            Files::Gguf(_) => TextModel::of_gguf(self.shown()),
            Files::Folder(folder) => TextModel::of_folder(&folder.path, &folder.facts.template),
        };
        text.map_err(|reason| EngineError::Load(format!("engine.models[{}]: {reason}", self.origin.index)))
    }

    /// Loads the weights. Blocks, for less than a second with the default model.
    ///
    /// # Errors
    /// `Load` with mistral.rs's reason, or because a file has changed since it was checked: a later load must not load another
    /// model.
    pub fn load(&self) -> Result<LoadedModel, EngineError> {
        let failed = |reason: &dyn std::fmt::Display| {
            EngineError::load(format_args!("cannot load {} from {}: {reason}", self.info.id, self.shown().display()))
        };
        if let Some(changed) = self.state.iter().find(|file| FileState::of(&file.path) != **file) {
            let path = changed.path.display();
            return Err(failed(&format_args!(
                "{path} has changed since it was checked; reload the model to load the new file"
            )));
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

    /// The path for messages: the first file of the weights.
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

/// Finds the file or folder on this machine, or fetches it from Hugging Face.
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
                return Err(format!(
                    "{key} is for Hugging Face repositories, but {} is on this machine; remove {key}",
                    path.display()
                ));
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

/// The file that clients may fetch; `None` if they may not.
fn shared_file(settings: &ModelSettings, files: &Files) -> Result<Option<PathBuf>, String> {
    if !settings.share.unwrap_or(settings.model.is_empty()) {
        return Ok(None);
    }
    match files {
        Files::Gguf(gguf) if gguf.parts.len() == 1 => Ok(gguf.parts.first().cloned()),
        _ => Err("share needs a model that is one GGUF file; set share to false".into()),
    }
}

/// The id of a model whose settings have none: the name of its file, folder or repository.
fn name(settings: &ModelSettings, path: &Path) -> String {
    let named = if path.is_dir() && hub::is_repository(&settings.model) { Path::new(&settings.model) } else { path };
    // `.` and `..` have no name.
    let absolute = fs::canonicalize(named).unwrap_or_else(|_| named.to_owned());
    let name = if path.is_dir() { absolute.file_name() } else { named.file_stem() };
    name.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

fn check_sum(weights: &[PathBuf], expected: &str) -> Result<(), String> {
    let [file] = weights else {
        return Err(format!(
            "sha256 is the checksum of one file, but the weights are {} files; remove sha256",
            weights.len()
        ));
    };
    let found = model::sha256(file).map_err(|error| format!("{error:#}"))?;
    if found.eq_ignore_ascii_case(expected.trim()) {
        return Ok(());
    }
    Err(format!(
        "{} has the sha256 {found}, but {expected} was expected: the file is damaged or another one; fetch it again",
        file.display()
    ))
}
