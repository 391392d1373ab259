"""The published data sets: what they are called, where they come from, how their folders lie.

Facts only, one row a set; `published.py` reads them. Most follow the layout of MVTec AD,

    ROOT/<category>/train/good/*.png
    ROOT/<category>/test/<good or defect>/*.png
    ROOT/<category>/ground_truth/<defect>/<stem>_mask.png

and differ in names alone.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One published data set.

    Attributes
    ----------
    name : str
        As `robustad.data.load` takes it.
    title : str
        As its authors call it.
    source : str
        Official site to get it from.
    licence : str
        Terms, as far as the source states them.
    expected : str
        The layout in a line, for error messages.
    categories : tuple of str
        The official categories; others found on disk are taken too.
    normal : str, default "good"
        Folder name of the normal class.
    masks : bool, default True
        Whether every anomalous image has a mask.
    wrappers : tuple of str
        Folders the archive or its usual converters put around the categories.
    single : bool, default False
        The root itself is the only category.
    image_folder : str, default ""
        Folder inside a class folder that holds the images, if it is there.
    mask_folders : tuple of str
        Folders inside a class folder that hold the masks; without one, `ground_truth/<defect>`.
    """

    name: str
    title: str
    source: str
    licence: str
    expected: str
    categories: tuple[str, ...]
    normal: str = "good"
    masks: bool = True
    wrappers: tuple[str, ...] = ()
    single: bool = False
    image_folder: str = ""
    mask_folders: tuple[str, ...] = ()


_MVTEC = (
    "<category>/train/good/*.png, <category>/test/<good or defect>/*.png, "
    "<category>/ground_truth/<defect>/*_mask.png"
)

_ALL = (
    Layout(
        name="mvtec",
        title="MVTec AD",
        source="https://www.mvtec.com/company/research/datasets/mvtec-ad",
        licence="CC BY-NC-SA 4.0",
        expected=_MVTEC,
        categories=(
            "bottle",
            "cable",
            "capsule",
            "carpet",
            "grid",
            "hazelnut",
            "leather",
            "metal_nut",
            "pill",
            "screw",
            "tile",
            "toothbrush",
            "transistor",
            "wood",
            "zipper",
        ),
        wrappers=("mvtec_anomaly_detection",),
    ),
    Layout(
        name="visa",
        title="VisA",
        source="https://github.com/amazon-science/spot-diff",
        licence="CC BY 4.0",
        expected=(
            "split_csv/1cls.csv and <category>/Data/{Images,Masks}, or the reorganised "
            "<category>/{train/good,test/good,test/bad,ground_truth/bad}"
        ),
        categories=(
            "candle",
            "capsules",
            "cashew",
            "chewinggum",
            "fryum",
            "macaroni1",
            "macaroni2",
            "pcb1",
            "pcb2",
            "pcb3",
            "pcb4",
            "pipe_fryum",
        ),
        wrappers=("1cls", "VisA_pytorch/1cls", "VisA_20220922", "VisA"),
    ),
    Layout(
        name="btad",
        title="BTAD (beanTech)",
        source="https://avires.dimi.uniud.it/papers/btad/btad.zip",
        licence="not stated; ask the authors",
        expected="<01, 02, 03>/train/ok, <01, 02, 03>/test/{ok,ko}, <01, 02, 03>/ground_truth/ko",
        categories=("01", "02", "03"),
        normal="ok",
        wrappers=("BTech_Dataset_transformed",),
    ),
    Layout(
        name="mpdd",
        title="MPDD",
        source="https://github.com/stepanje/MPDD",
        licence="not stated; ask the authors",
        expected=_MVTEC,
        categories=(
            "bracket_black",
            "bracket_brown",
            "bracket_white",
            "connector",
            "metal_plate",
            "tubes",
        ),
        wrappers=("MPDD",),
    ),
    Layout(
        name="wfdd",
        title="WFDD",
        source="https://github.com/cqylunlun/GLASS",
        licence="MIT",
        expected=_MVTEC,
        categories=("grey_cloth", "grid_cloth", "pink_flower", "yellow_cloth"),
        wrappers=("WFDD",),
    ),
    Layout(
        name="dtd_synthetic",
        title="DTD-Synthetic",
        source="https://www.vision.is.tohoku.ac.jp (Aota et al., WACV 2023)",
        licence="not stated; ask the authors",
        expected=_MVTEC,
        categories=(
            "Blotchy_099",
            "Fibrous_183",
            "Marbled_078",
            "Matted_069",
            "Mesh_114",
            "Perforated_037",
            "Stratified_154",
            "Woven_001",
            "Woven_068",
            "Woven_104",
            "Woven_125",
            "Woven_127",
        ),
        wrappers=("DTD-Synthetic",),
    ),
    Layout(
        name="brats2021",
        title="BraTS2021 FLAIR slices (BMAD)",
        source="https://github.com/DorisBao/BMAD",
        licence="the terms of BMAD and of the BraTS 2021 challenge; non-commercial",
        expected=(
            "train/good[/img]/*.png, test/good/img/*.png, test/Ungood/img/*.png, "
            "test/Ungood/{label or anomaly_mask}/*.png"
        ),
        categories=("brain",),
        wrappers=("BraTS2021_slice", "Brain", "Brain_AD", "brain"),
        single=True,
        image_folder="img",
        mask_folders=("label", "anomaly_mask"),
    ),
    Layout(
        name="headct",
        title="Head CT - hemorrhage",
        source="https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage",
        licence="see its Kaggle page",
        expected=(
            "labels.csv and head_ct/000.png ..., or the reorganised "
            "{train/good,test/good,test/<defect>}"
        ),
        categories=("head",),
        masks=False,
        wrappers=("headct", "head_ct"),
        single=True,
    ),
)

LAYOUTS = {layout.name: layout for layout in _ALL}
