//! `smidr image`: build-host images.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    args::Image,
    build::start_spawner,
    context,
    output::{bytes, say, say_json, talk},
    report::{Done, Failure, Refused},
    terminal::Terminal,
};
use crate::{
    config::nearest,
    engine::{EngineError, Tools, image_build, recipes},
    events::Emitter,
    host::{files::FileError, stop::Stop},
    image::{ImageName, ImageStore, LayerForm, StoredImage},
    model::BuildId,
    service::random,
};

/// Runs the command. `config` says beside which file rootfs recipes are looked for.
pub fn image(config: &Path, command: &Image) -> Done {
    let stop = Stop::on_signals().map_err(FileError::new("take over signals", Path::new("smidr")))?;
    let spawner = start_spawner()?;
    let facts = context::gather();
    let paths = context::open_paths(&facts)?;
    let store = ImageStore::open(&paths)?;
    let on = Emitter::new(BuildId::new("image", random())?, vec![Box::new(Terminal::new())]);
    // Whatever is half-made is removed by whoever opens the store next. Only making an image has steps of its own to end.
    let _at_once = (!matches!(command, Image::Build { .. })).then(|| stop.listen(|_, _| std::process::exit(130)));
    match command {
        Image::Ls { json } => return list(&store, *json),
        Image::Build { recipe } => {
            let project = config.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let project = std::path::absolute(project).map_err(FileError::new("find", project))?;
            let found = recipes::find(recipe, &project, &paths)?;
            let tools = Tools { paths: &paths, facts: &facts, store: &store, spawner: &spawner, stop: &stop, on: &on };
            match image_build::build(tools, &found, &BTreeMap::new()) {
                Err(_) if stop.asked() > 0 => return Err(EngineError::Stopped.into()),
                made => tell(&made?),
            }
        }
        Image::Import { source, name } => {
            let source: PathBuf = source.clone();
            tell(&store.import(&source, &name.parse::<ImageName>()?, &on)?);
        }
        Image::Export { name, dest, compression } => {
            let form = if compression.is_some() { LayerForm::Gzip } else { LayerForm::AsIs };
            store.export(&find(&store, name)?, dest, form, &on)?;
            talk(format!("{name} is in {}", dest.display()));
        }
        Image::Rm { name } => {
            let image = find(&store, name)?;
            store.remove(&image.name, &on)?;
            talk(format!("removed {}", image.name));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find(store: &ImageStore, name: &str) -> Result<StoredImage, Failure> {
    if let Some(image) = store.find(name)? {
        return Ok(image);
    }
    let all = store.list()?;
    let names: Vec<&str> = all.iter().map(|image| image.name.as_str()).collect();
    let hint = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "all images:  smidr image ls".into(),
    };
    Err(Refused::new(format!("there is no image `{name}`"), Some(hint)).into())
}

fn tell(image: &StoredImage) {
    say(format!("{}  {}", image.name, image.manifest));
}

fn list(store: &ImageStore, json: bool) -> Done {
    let images = store.list()?;
    if json {
        let list: Vec<_> = images
            .iter()
            .map(|image| {
                serde_json::json!({
                    "name": image.name, "digest": image.manifest, "created": image.created, "source": image.source,
                    "size": image.size, "shared": image.shared, "layers": image.layers,
                })
            })
            .collect();
        say_json(&serde_json::json!({ "version": 1, "images": list }));
    } else if images.is_empty() {
        talk("there are no images yet:  smidr image build debian-12");
    }
    for image in images.iter().filter(|_| !json) {
        let created = image.created.strftime("%Y-%m-%d");
        say(format!(
            "{:<24} sha256:{}…  {created}  {:>8}  {}",
            image.name,
            image.manifest.short(),
            bytes(image.size),
            image.source
        ));
    }
    Ok(ExitCode::SUCCESS)
}
