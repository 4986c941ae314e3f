//! VolumeImage: what a volume was at one moment (DSP0263 1.0.1 §5.26).

use super::{Shape::*, a, seen, standard};
use crate::model::{Creation, Kind, Type};

pub(super) const VOLUME_IMAGE: Type = Type {
    creation: Creation::Plain {
        wrapper: Some("volumeImageTemplate"),
    },
    attributes: &[
        seen("state", String),
        a("imageLocation", Ref(&[Kind::Volume]))
            .at_creation()
            .required(),
        a("bootable", Boolean),
        seen("capacity", Integer).stratuslab(),
        super::VISIBILITY,
        super::REASON,
    ],
    ..standard(Kind::VolumeImage, "volumeImages", "volumeImages")
};

pub(super) const VOLUME_VOLUME_IMAGE: Type = Type {
    collection: None,
    attributes: &[seen("volumeImage", Ref(&[Kind::VolumeImage]))],
    ..standard(Kind::VolumeVolumeImage, "", "volumeVolumeImages")
};
