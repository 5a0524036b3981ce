"""``python -m datasets COMMAND``: the commands of this package."""

import sys

from datasets.command_line import Command, main

COMMANDS = {
    "miniature": Command(
        summary="render a small data set of walking people in a real one's layout",
        config="datasets.config:MiniatureConfig",
        run="datasets.miniature:make_miniature",
    ),
    "index": Command(
        summary="list and check a data set's images",
        config="datasets.config:IndexConfig",
        run="datasets.index:make_index",
    ),
    "import-poses": Command(
        summary="read published OpenPose CSV files",
        config="datasets.config:ImportPosesConfig",
        run="datasets.poses:make_imported_poses",
    ),
    "extract-poses": Command(
        summary="find the skeletons of an index's images",
        config="datasets.config:ExtractPosesConfig",
        run="datasets.extract_poses:make_extracted_poses",
    ),
    "train-pose": Command(
        summary="train the small pose network",
        config="datasets.config:TrainPoseConfig",
        run="datasets.tiny_pose.training:make_pose_network",
    ),
    "compare-poses": Command(
        summary="measure one pose file by another: PCK, errors, overlays",
        config="datasets.config:ComparePosesConfig",
        run="datasets.compare_poses:make_comparison",
    ),
    "show-poses": Command(
        summary="draw skeletons over their images on a contact sheet",
        config="datasets.config:ShowPosesConfig",
        run="datasets.pose_sheets:run_show_poses",
    ),
    "export-poses": Command(
        summary="write poses in the published CSV format",
        config="datasets.config:ExportPosesConfig",
        run="datasets.poses:run_export",
    ),
    "export-pairs": Command(
        summary="write the pairs of images of one person by PATN's rule, or compare them with a published file",
        config="datasets.config:ExportPairsConfig",
        run="datasets.pairs:run_export",
    ),
    "select-subsets": Command(
        summary="choose the training images of each fraction",
        config="datasets.config:SelectSubsetsConfig",
        run="datasets.subsets:make_subsets",
    ),
    "write-shards": Command(
        summary="write images and poses as WebDataset tars",
        config="datasets.config:WriteShardsConfig",
        run="datasets.shards:make_shards",
    ),
    "encode": Command(
        summary="compute VAE latents and image-encoder tokens once",
        config="datasets.config:EncodeConfig",
        run="datasets.encode:make_encoded",
    ),
    "verify": Command(
        summary="re-hash finished artifacts", config="datasets.config:VerifyConfig", run="datasets.verify:run_verify"
    ),
}

if __name__ == "__main__":
    sys.exit(main("datasets", COMMANDS))
