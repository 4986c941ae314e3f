//! Images on their way out, judged by QEMU's own tools.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cimi::resources::{Image, ImageSource, ImageState, Resource as _};
use futures::TryStreamExt as _;

use super::super::{ExportFormat, StorageController};
use super::web_server::{Answer, WebServer};
use super::world::{World, image, names};
use crate::confine::QemuImg;

async fn exported(
    controller: &StorageController,
    image: &Image,
    format: Option<ExportFormat>,
    part: Option<(u64, Option<u64>)>,
) -> Vec<u8> {
    let export = controller
        .export(image, format, part)
        .await
        .expect("export");
    let length = export
        .part
        .map(|(start, end)| end - start)
        .or(export.length);
    let parts: Vec<bytes::Bytes> = export.content.try_collect().await.expect("content");
    let bytes = parts.concat();
    assert_eq!(length, Some(bytes.len() as u64));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_out_as_any_format_and_in_parts() {
    let found = ["/usr/bin/qemu-img", "/usr/local/bin/qemu-img"];
    let Some(qemu_img) = found
        .iter()
        .find_map(|path| QemuImg::at(Path::new(path)).ok())
    else {
        eprintln!("skipped: qemu-img (Debian: qemu-utils) is not here");
        return;
    };
    let mut world = World::new().await;
    let mut settings = world.settings();
    settings.qemu_img = Some(qemu_img);
    let controller = world.start_with(settings, None).await;
    let raw: Vec<u8> = (0..3_u32 << 18)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect();
    let bytes = Arc::new(raw.clone());
    let server = WebServer::start(move |_| Answer::Body {
        bytes: bytes.clone(),
        etag: "one",
        ranges: true,
        at_most: usize::MAX,
    })
    .await;
    let wanted = image(
        ImageSource::Url {
            url: server.url.clone(),
        },
        "IMAGE",
    );
    let early = controller
        .export(&wanted, None, None)
        .await
        .err()
        .expect("no content yet");
    assert!(early.to_string().contains("content"), "{early}");
    world.create(&wanted).await;
    let read = world
        .until::<Image>(wanted.local_id(), |image| {
            image.state == ImageState::Available
        })
        .await;
    let image = &read.document.0;
    assert!(exported(&controller, image, None, None).await == raw);
    assert!(
        exported(
            &controller,
            image,
            Some(ExportFormat::Raw),
            Some((1000, Some(700_000)))
        )
        .await
            == raw[1000..700_000]
    );
    assert!(exported(&controller, image, None, Some((3_000_000, None))).await == raw[3_000_000..]);
    assert!(
        controller
            .export(image, None, Some((raw.len() as u64, None)))
            .await
            .is_err()
    );
    let folder = tempfile::tempdir().expect("temporary directory");
    let original = folder.path().join("original");
    std::fs::write(&original, &raw).expect("write");
    for format in [
        ExportFormat::Qcow2,
        ExportFormat::Vdi,
        ExportFormat::Vmdk,
        ExportFormat::Vpc,
    ] {
        let file = folder.path().join(format.as_str());
        std::fs::write(
            &file,
            exported(&controller, image, Some(format), None).await,
        )
        .expect("write");
        let same = Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", format.as_str()])
            .args([&original, &file])
            .output()
            .expect("qemu-img");
        assert!(same.status.success(), "{format:?}: {same:?}");
    }
    let left = names(&world.storage_dir());
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
    drop(controller);
    world.kill().await;
}
