"""The fixes that `tests.campaigns.guards` takes out, and the tests that must see it."""

from __future__ import annotations

from typing import NamedTuple

IN, RUN = "what goes in", "run folders"
RESUME, CHECKPOINTS, FAULTS = "exact resume", "checkpoints", "faults"
HOOKS, HOSTILE = "hooks", "hostile input"

GRID = "tests/contracts/test_15_what_goes_in.py::"
ATTACHED = "tests/contracts/test_11_attached.py::"
EXCEPTIONS = "tests/contracts/test_11_exceptions.py::"
LOSSES = "tests/unit/test_losses.py::"
ATTACKS = "tests/unit/test_attacks_inputs.py::"
HALF = "tests/unit/test_attacks_precision.py::"
EVALUATION = "tests/unit/test_evaluation_inputs.py::"
PARTS = "tests/unit/test_evaluation_parts.py::"
ODD = "tests/unit/test_odd_calls.py::"
FOLDER = "tests/unit/test_reliability_folder.py::"
FILES = "tests/unit/test_reliability_checkpoints.py::"
IMAGES = "tests/unit/test_data_folders.py::"
OPTIONS = "tests/unit/test_cli_options.py::"
RESUMED = "tests/contracts/test_resume.py::"
METHODS = "tests/contracts/test_13_methods.py::"

REFUSED = f"{GRID}test_what_cannot_be_right_is_refused_with_the_mend"
ONE_LOGIT = f"{GRID}test_one_logit_is_two_classes_and_several_labels_are_one_such_pair_each"
CRITERION = "task_of(criterion, outputs, batch.targets)"
BY_SHAPE = "task_of(None, outputs)"


class Guard(NamedTuple):
    """A fix, what it is against, and the test that must fail without it.

    Attributes:
        area: Which part of what is promised it belongs to.
        fault: What went wrong before.
        file: Where the fix is, below `src/advreg`.
        fix: Its exact text, which stands there once.
        without: The text in its place.
        test: As pytest names it.
    """

    area: str
    fault: str
    file: str
    fix: str
    without: str
    test: str


GUARDS = [
    Guard(
        IN, "a method clamps images that were normalised in the loader",
        "checks.py",
        "if not (least >= lowest and most <= highest):", "if False:",
        f"{REFUSED}[fgsm]",
    ),
    Guard(
        IN, "the adversary clamps images that were normalised in the loader",
        "layerwise/attach.py",
        "check_inputs(inputs, limits)", "pass",
        f"{ATTACHED}test_a_batch_outside_the_declared_range_is_refused",
    ),
    Guard(
        IN, "an adversary in compiled code clamps images that were normalised in the loader",
        "layerwise/compiled/graph.py",
        "if site.limits != NO_LIMITS:\n        check_range(", "if False:\n        check_range(",
        "tests/contracts/test_08_graph.py::"
        "test_inputs_that_clamping_would_change_are_refused_within_the_graph",
    ),
    Guard(
        IN, "the labels are perturbed, the first floating-point tensor of the call",
        "inputs.py",
        "            key = self.name\n",
        "            key = next(k for k, v in kwargs.items() if find_tensor(v) is not None)\n",
        f"{ATTACHED}test_labels_are_never_the_input",
    ),
    Guard(
        IN, "a second network starts from the first one's perturbations",
        "methods/base.py",
        "if not self._restored:", "if False:",
        f"{METHODS}test_a_second_network_begins_with_nothing_carried_over",
    ),
    Guard(
        IN, "cross entropy over one logit trains on nothing",
        "losses/criteria.py",
        'if kind == "categorical" and one_logit:', "if False:",
        f"{REFUSED}[standard]",
    ),
    Guard(
        IN, "TRADES takes several labels for classes",
        "methods/trades.py",
        f"{CRITERION}\n        change", f"{BY_SHAPE}\n        change",
        f"{ONE_LOGIT}[trades]",
    ),
    Guard(
        IN, "VAT takes several labels for classes",
        "methods/vat.py",
        CRITERION, BY_SHAPE,
        f"{ONE_LOGIT}[vat]",
    ),
    Guard(
        IN, "LOTS takes several labels for classes",
        "methods/lots.py",
        "task_of(criterion, answers, batch.targets)", "task_of(None, answers)",
        f"{ONE_LOGIT}[lots]",
    ),
    Guard(
        IN, "smoothing maps yes and no to 0.1 and 1",
        "losses/criteria.py",
        'logits.shape[1] if task.kind == "categorical" else 2', "1",
        f"{ONE_LOGIT}[label_smoothing]",
    ),
    Guard(
        IN, "targets of one logit are broadcast to B times B",
        "losses/targets.py",
        "return targets.reshape(outputs.shape)", "return targets",
        f"{ATTACKS}test_one_logit_is_attacked_as_the_network_of_two_classes",
    ),
    Guard(
        IN, "(B,) outputs are one example of B classes",
        "losses/targets.py",
        "return outputs.ndim == 1 or outputs.shape[1] == 1",
        "return outputs.ndim > 1 and outputs.shape[1] == 1",
        f"{LOSSES}test_one_logit_is_bernoulli",
    ),
    Guard(
        IN, "Square does nothing to a network of one logit",
        "attacks/autoattack.py",
        "outputs = task_of(None, outputs).class_logits(outputs)", "pass",
        f"{ATTACKS}test_square_attacks_one_logit_as_two_classes",
    ),
    Guard(
        IN, "a network of one logit is right about everything",
        "losses/task.py",
        "return torch.stack([torch.zeros_like(outputs), outputs], 1)",
        "return outputs.unsqueeze(1)",
        f"{EVALUATION}test_one_logit_is_the_network_of_two_classes",
    ),
    Guard(
        IN, "a regression is trained as classes",
        "losses/task.py",
        'if self.kind == "regression":', "if False:",
        f"{GRID}test_a_regression_is_right_or_refused",
    ),
    Guard(
        IN, "a sigmoid before the logistic loss says yes to everything",
        "checks.py",
        'if made_by is not None and made_by.name().startswith("Sigmoid"):', "if False:",
        f"{ODD}test_a_sigmoid_before_the_logistic_loss_is_refused",
    ),
    Guard(
        IN, "a softmax before the cross entropy hides the gradient",
        "checks.py",
        "if ((rows.sum(1) - 1).abs() < ROUNDING).all():", "if False:",
        f"{GRID}test_a_softmax_before_the_cross_entropy_is_refused[fgsm]",
    ),
    Guard(
        IN, "the softmax is over time, where classes come last",
        "losses/targets.py",
        "if targets.shape != positions:", "if False:",
        f"{GRID}test_positions_that_are_alike_are_one[standard]",
    ),
    Guard(
        IN, "the divergence grows with the number of pixels",
        "losses/task.py",
        "return total / (outputs.numel() // outputs.shape[1])", "return total / len(outputs)",
        f"{GRID}test_positions_that_are_alike_are_one[trades]",
    ),
    Guard(
        IN, "a tuple that a network returns is a raw error in training",
        "losses/criteria.py",
        "        logits = logits_of(outputs)\n        task, fitted",
        "        logits = outputs\n        task, fitted",
        f"{GRID}test_labels_of_any_type_outputs_in_any_container_and_any_precision[standard]",
    ),
    Guard(
        IN, "a tuple that a network returns is a raw error in an attack",
        "losses/task.py",
        "outputs = wide(logits_of(outputs))", "outputs = wide(outputs)",
        f"{ATTACKS}test_outputs_in_containers_are_found[tuple]",
    ),
    Guard(
        IN, "smoothing with class weights divides by the number of examples",
        "losses/criteria.py",
        "if settings is not None and not given.is_floating_point():", "if False:",
        f"{GRID}test_class_weights_and_ignored_classes[label_smoothing]",
    ),
    Guard(
        IN, "a class that is to be ignored is a raw error",
        "losses/criteria.py",
        'ignored = settings.get("ignore_index", getattr(function, "ignore_index", IGNORED))',
        "ignored = IGNORED",
        f"{GRID}test_class_weights_and_ignored_classes[standard]",
    ),
    Guard(
        IN, "a limit measures one class of data that are sorted",
        "evaluation/robustness.py",
        "order = stratified_order(targets.cpu(), seed)[:limit]",
        "order = torch.arange(len(targets))[:limit]",
        f"{EVALUATION}test_a_limit_draws_every_class_in_proportion",
    ),
    Guard(
        IN, "probes look at one class of data that are sorted",
        "evaluation/robustness.py",
        "order = stratified_order(targets.cpu(), seed)[:limit]",
        "order = torch.arange(len(targets))[:limit]",
        f"{EVALUATION}test_probes_are_of_every_class",
    ),
    Guard(
        IN, "test images of a file that is sorted come class by class",
        "data/sources.py",
        "in_order = bool((images.targets.diff() >= 0).all())", "in_order = False",
        "tests/unit/test_data_sources.py::"
        "test_a_parquet_file_sorted_by_class_is_mixed_for_testing",
    ),
    Guard(
        IN, "images that Square cannot tile under L2 crash it after the attacks",
        "attacks/autoattack.py",
        "if isinstance(threat, L2) and not (fits or side == 1):", "if False:",
        f"{EVALUATION}test_images_that_square_cannot_tile_leave_a_row_that_says_so",
    ),
    Guard(
        IN, "a probe that cannot be measured loses the whole evaluation",
        "evaluation/probes.py",
        "except (ConfigurationError, MissingExtraError) as error:",
        "except MissingExtraError as error:",
        f"{EVALUATION}test_images_that_square_cannot_tile_leave_a_row_that_says_so",
    ),
    Guard(
        IN, "a headline of three classes is refused after its attacks",
        "evaluation/suites.py",
        "        check_classes(classes)\n", "",
        f"{EVALUATION}test_a_headline_of_three_classes_is_refused_before_anything_runs",
    ),
    Guard(
        IN, "half precision oversteps the budget",
        "tensors.py",
        "return torch.where(beyond, stepped, nearest)", "return nearest",
        "tests/unit/test_tensors.py::test_half_precision_stays_within_the_budget",
    ),
    Guard(
        IN, "momentum in float16 becomes NaN and stands still",
        "attacks/gradient.py",
        "                gradient = wide(gradient)\n", "",
        f"{HALF}test_momentum_in_float16_goes_on_after_a_gradient_of_zero",
    ),
    Guard(
        IN, "the extra files of CIFAR-10-C are averaged in",
        "evaluation/corruptions.py",
        "return [name for name in names if name in BENCHMARK] or names", "return names",
        "tests/unit/test_evaluation_suite.py::"
        "test_files_beside_the_benchmark_are_measured_but_not_averaged",
    ),
    Guard(
        IN, "PGD under L2 spends its budget on random starts",
        "attacks/gradient.py",
        "at_inputs = not random_start or (restarts > 1 and not run and threat.starts_at_inputs)",
        "at_inputs = not random_start",
        f"{ATTACKS}test_under_l2_restarts_are_never_weaker_than_the_run_from_the_input",
    ),
    Guard(
        IN, "an evaluation under L2 has random starts alone",
        "evaluation/suites.py",
        "random = run.number > 0 or not threat.starts_at_inputs", "random = True",
        f"{EVALUATION}test_under_l2_the_first_run_starts_at_the_input",
    ),
    Guard(
        IN, "a network of NaN is perfectly calibrated",
        "evaluation/calibration.py",
        "index_add_(0, places, hits - confidence)",
        "index_add_(0, places, (hits - confidence).nan_to_num())",
        f"{PARTS}test_without_a_confidence_there_is_no_calibration",
    ),
    Guard(
        IN, "images in [0, 1] are measured as bytes",
        "evaluation/accuracy.py",
        "if data.images.dtype != torch.uint8:", "if False:",
        "tests/unit/test_evaluation_refusals.py::test_data_that_would_be_misread_are_refused",
    ),
    Guard(
        IN, "labels in int32 are a raw error",
        "losses/targets.py",
        "    targets = targets.long()\n    wrong", "    wrong",
        f"{LOSSES}test_classes_of_any_integer_type",
    ),
    Guard(
        IN, "one-hot labels are a raw error",
        "losses/targets.py",
        "return targets if targets.is_floating_point() else targets.long().argmax(1)",
        "return targets",
        f"{LOSSES}test_classes_of_any_integer_type",
    ),
    Guard(
        IN, "a network in half or double precision cannot be evaluated",
        "evaluation/accuracy.py",
        ".float() / 255).to(input_type(model))", ".float() / 255)",
        f"{EVALUATION}test_networks_of_other_precisions_are_measured",
    ),
    Guard(
        IN, "sparse gradients of an embedding are a raw error in SAM",
        "methods/weights.py",
        "one.grad.to_dense()", "one.grad",
        f"{REFUSED}[sam]",
    ),
    Guard(
        IN, "of several runs on several labels the best one counts",
        "evaluation/labels.py",
        "for one in answers]).amin(0)", "for one in answers]).amax(0)",
        "tests/unit/test_evaluation_labels.py::test_figures_are_those_of_plain_loops",
    ),
    Guard(
        IN, "one class an example is measured as several labels",
        "evaluation/labels.py",
        "if classes.ndim - classes.is_floating_point() < 2:", "if False:",
        "tests/unit/test_evaluation_labels.py::test_what_cannot_be_right_is_refused",
    ),
    Guard(
        IN, "images of which every position is ignored count as wrong",
        "evaluation/labels.py",
        "    if empty.any():", "    if False:",
        "tests/unit/test_evaluation_labels.py::test_what_cannot_be_right_is_refused",
    ),
    Guard(
        IN, "one colour image among grey ones is refused, or not, by the split",
        "data/sources.py",
        "1 if all(part.all_grey() for part in parts) else 3",
        "1 if train.all_grey() else 3",
        f"{IMAGES}test_one_colour_image_among_grey_ones_makes_the_source_coloured",
    ),
    Guard(
        IN, "colours at sixteen bits are read at eight",
        "decoding.py",
        'deep = any(";16B" in str(tile[3]) for tile in image.tile)', "deep = False",
        f"{IMAGES}test_image_folder_that_is_not_as_it_should_be",
    ),
    Guard(
        IN, "of a folder of PNG and WebP half is used",
        "decoding.py",
        '".bmp", ".webp")', '".bmp")',
        f"{IMAGES}test_what_is_not_used_is_counted_and_said",
    ),
    Guard(
        IN, "files that are not used are not mentioned",
        "data/sources.py",
        "    if skipped:", "    if False:",
        f"{IMAGES}test_what_is_not_used_is_counted_and_said",
    ),
    Guard(
        IN, "a perturbation that is empty step after step is silent",
        "methods/base.py",
        "if self._empty == EMPTY_LOOKS:", "if False:",
        f"{GRID}test_an_empty_perturbation_is_said_once",
    ),
    Guard(
        RUN, "a flipped bit in a checkpoint goes on silently",
        "training/checkpoint.py",
        "if checked and hashlib.sha256(data[:-_LENGTH]).hexdigest().encode() != data[-64:]:",
        "if False:",
        f"{FILES}test_every_flipped_bit_and_every_cut_is_seen",
    ),
    Guard(
        RUN, "last.pt of another run is resumed",
        "training/resuming.py",
        "if differing := changes(before, now):", 'if differing := "":',
        f"{FOLDER}test_a_checkpoint_of_another_run_is_not_resumed",
    ),
    Guard(
        RUN, "a run whose config.yaml was edited is evaluated",
        "training/loading.py",
        'if differing := changes(identity["settings"], now):', 'if differing := "":',
        f"{FOLDER}test_an_edited_configuration_is_neither_resumed_nor_evaluated",
    ),
    Guard(
        RUN, "changed images are resumed and evaluated",
        "training/loading.py",
        "    if differing:\n", "    if False:\n",
        f"{FOLDER}test_changed_data_are_seen_and_moved_data_are_not_minded",
    ),
    Guard(
        RUN, "a moved data folder cannot be resumed",
        "training/identity.py",
        'MOVABLE = {"data.name"}', "MOVABLE: set[str] = set()",
        f"{FOLDER}test_changed_data_are_seen_and_moved_data_are_not_minded",
    ),
    Guard(
        RUN, "a missing last.pt starts from nothing and replaces best.pt",
        "training/folder.py",
        "if not found and (self.best.exists() or self.read_metrics()):", "if False:",
        f"{FOLDER}test_a_lost_checkpoint_is_not_taken_for_a_new_run",
    ),
    Guard(
        RUN, "two processes in one folder mix their files",
        "training/lock.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
        f"{FOLDER}test_of_two_new_runs_in_one_folder_one_is_refused",
    ),
    Guard(
        RUN, "a full disk is a traceback",
        "files.py",
        "    except OSError as error:\n        mend", "    except EOFError as error:\n        mend",
        f"{FOLDER}test_a_full_disk_stops_the_run_and_keeps_what_is_there",
    ),
    Guard(
        RUN, "a read-only folder is found after the work",
        "files.py",
        "if not os.access(present, os.W_OK):", "if False:",
        f"{FOLDER}test_a_read_only_folder_is_refused_before_anything_is_done",
    ),
    Guard(
        RUN, "a folder that was replaced in mid-run is written to",
        "training/lock.py",
        "        if not self.held:\n            raise", "        if False:\n            raise",
        f"{FOLDER}test_a_folder_removed_or_replaced_in_mid_run_is_a_sentence",
    ),
    Guard(
        RUN, "a disk full at an evaluation's end loses it",
        "evaluation/suite.py",
        "        arrays = self.evaluation.examples()\n",
        "        (folder / PARTIAL).unlink(missing_ok=True)\n"
        "        arrays = self.evaluation.examples()\n",
        f"{FOLDER}test_a_disk_full_at_an_evaluations_end_loses_nothing",
    ),
    Guard(
        RUN, "a closed output ends the training unsaved",
        "training/records.py",
        "except (OutputError, OSError, SystemExit) as error:", "except ZeroDivisionError as error:",
        f"{FOLDER}test_a_reader_that_goes_away_stops_the_run_and_saves_it",
    ),
    Guard(
        RUN, "weights of NaN lose the evaluation at its JSON",
        "evaluation/results.py",
        "return mean if math.isfinite(mean) else None", "return mean",
        f"{EVALUATION}test_a_network_of_nan_is_measured_and_says_so",
    ),
    Guard(
        RUN, "a folder of a run that was killed before its first file cannot be used",
        "training/loop.py",
        "        folder.clean()\n", "",
        f"{FOLDER}test_a_folder_of_a_run_killed_before_its_first_file_can_be_started",
    ),
    Guard(
        RUN, "temporary files of killed processes stay for ever",
        "files.py",
        "        remove_leftovers(path)\n", "",
        f"{FILES}test_what_killed_processes_left_is_removed_and_what_others_write_is_not",
    ),
    Guard(
        RUN, "a broken line of the metrics is a traceback",
        "training/folder.py",
        "except (ValueError, KeyError, TypeError, RecursionError):", "except KeyError:",
        f"{FOLDER}test_a_broken_line_of_the_metrics_is_named",
    ),
    Guard(
        RUN, "a folder in a checkpoint's place is a traceback",
        "training/checkpoint.py",
        "    except OSError as error:\n        raise _damaged",
        "    except EOFError as error:\n        raise _damaged",
        f"{FOLDER}test_a_folder_in_a_files_place_is_a_sentence",
    ),
    Guard(
        RUN, "a checkpoint that lacks parts is a traceback",
        "training/loading.py",
        "    except Exception as error:", "    except EOFError as error:",
        f"{FILES}test_newer_older_foreign_and_incomplete_checkpoints_are_a_sentence",
    ),
    Guard(
        RUN, "names with markup are a traceback",
        "progress.py",
        "self.console.print(text, markup=False, highlight=False, soft_wrap=True)",
        "self.console.print(text, highlight=False, soft_wrap=True)",
        "tests/unit/test_progress.py::test_elsewhere_there_is_a_line_now_and_then",
    ),
    Guard(
        RUN, "over-long names are a traceback",
        "training/settings.py",
        "if longest > _LONGEST_NAME or len(str(value).encode()) > _LONGEST_PATH:", "if False:",
        f"{FOLDER}test_names_that_no_folder_can_have_are_refused",
    ),
    Guard(
        RUN, "undecodable names are a traceback",
        "training/settings.py",
        "isinstance(value, str) and value.isprintable()", "isinstance(value, str)",
        f"{FOLDER}test_names_that_no_folder_can_have_are_refused",
    ),
    Guard(
        RUN, "nested YAML ends in thousands of lines of RecursionError",
        "training/configuration.py",
        "if self.depth > DEEPEST:", "if False:",
        f"{OPTIONS}test_a_files_values_are_read_like_options",
    ),
    Guard(
        RUN, "an interrupt while workers import is a failure of every run",
        "study/pool.py",
        "            if self.stopping:\n", "            if False:\n",
        "tests/unit/test_study_plan.py::"
        "test_a_worker_that_is_stopped_while_it_imports_has_not_failed",
    ),
    Guard(
        RUN, "a study without a finished run has a page",
        "study/compare.py",
        "if not found.rows:", "if False:",
        "tests/unit/test_study_demo.py::test_there_is_no_page_of_nothing",
    ),
    Guard(
        RUN, "an EPS file named 0.png makes Pillow start a program",
        "decoding.py",
        "Image.open(source, formats=formats())", "Image.open(source)",
        f"{IMAGES}test_image_folder_that_is_not_as_it_should_be",
    ),
    Guard(
        RUN, "an image to search for is opened as whatever it is",
        "hashing/gallery.py",
        "with large_images_refused(), opened(path, str(path)) as file:",
        "with Image.open(path) as file:",
        "tests/unit/test_hashing_gallery.py::test_image_files_of_strangers_are_refused",
    ),
    Guard(
        RUN, "an index whose codes have changed is searched",
        "hashing/index.py",
        "if sums != _checksums(folder):", "if False:",
        "tests/unit/test_hashing_index.py::test_every_byte_that_changes_is_noticed",
    ),
    Guard(
        RUN, "zlib's errors come out of a split of which a byte has changed",
        "files.py",
        "except Exception as error:  # numpy, zipf", "except OSError as error:  # numpy, zipf",
        "tests/unit/test_hashing_splits.py::"
        "test_a_split_with_a_changed_byte_is_the_same_or_a_sentence",
    ),
    Guard(
        IN, "test images without labels are dropped without a word",
        "data/arrays.py",
        "if (images in arrays) != (targets in arrays):", "if False:",
        "tests/unit/test_data_arrays.py::test_arrays_of_any_kind_are_a_sentence",
    ),
    Guard(
        IN, "arrays of the other order of bytes are a traceback",
        "data/images.py",
        "and not values.dtype.isnative", "and False",
        "tests/unit/test_data_arrays.py::test_the_other_order_of_bytes_is_the_same",
    ),
    Guard(
        IN, "bytes from 0 to 1 given to ImageData itself are trained on",
        "data/images.py",
        "if not part and self.images[:LOOK].max() == 1:", "if False:",
        "tests/unit/test_data_images.py::test_bytes_from_0_to_1_are_refused_but_in_a_part",
    ),
    Guard(
        RUN, "a class whose name is no text loses a page after its work",
        "files.py",
        'text, "utf-8", "backslashreplace"', 'text, "utf-8"',
        "tests/unit/test_lots_page.py::test_a_class_whose_name_is_no_text_is_escaped",
    ),
    Guard(
        RUN, "paths with blanks are not quoted in what to type next",
        "training/folder.py",
        "return shlex.join(\n", 'return " ".join(\n',
        f"{OPTIONS}test_a_method_of_ones_own_is_trained_with_its_options",
    ),
    Guard(
        RESUME, "the random state is not restored",
        "training/session.py",
        '        torch.set_rng_state(own["random"]["cpu"])\n', "",
        f"{RESUMED}test_an_interrupted_run_ends_as_an_undisturbed_one[dropout-mid last epoch]",
    ),
    Guard(
        RESUME, "an epoch that was interrupted begins again",
        "training/loop.py",
        "session.loader.epoch(tally.epoch, start=tally.step)", "session.loader.epoch(tally.epoch)",
        f"{RESUMED}test_an_interrupted_run_ends_as_an_undisturbed_one"
        "[layerwise-slot-mid first epoch]",
    ),
    Guard(
        RESUME, "what a method remembers is not restored",
        "training/session.py",
        '        self.method.load_state_dict(own["method"])\n', "",
        f"{RESUMED}test_an_interrupted_run_ends_as_an_undisturbed_one"
        "[layerwise-example-mid last epoch]",
    ),
    Guard(
        CHECKPOINTS, "a file is written in its place",
        "files.py",
        "            write(temporary)\n            flush(temporary)\n"
        "            os.replace(temporary, path)\n",
        "            write(path)\n",
        f"{PARTS}test_a_file_is_whole_or_as_before",
    ),
    Guard(
        CHECKPOINTS, "a file is renamed before it is on the disk",
        "files.py",
        "            flush(temporary)\n", "",
        f"{FILES}test_files_and_folders_are_flushed_before_and_after_the_move",
    ),
    Guard(
        CHECKPOINTS, "a folder is not flushed after the renaming",
        "files.py",
        "        flush(path.parent)\n", "",
        f"{FILES}test_files_and_folders_are_flushed_before_and_after_the_move",
    ),
    Guard(
        CHECKPOINTS, "a checkpoint without its checksum is taken",
        "training/checkpoint.py",
        "if found == FORMAT and not checked:", "if False:",
        f"{FILES}test_every_flipped_bit_and_every_cut_is_seen",
    ),
    Guard(
        CHECKPOINTS, "the last checkpoint alone is kept",
        "training/folder.py",
        "replace_file(older, partial(_link, newer))", "pass",
        f"{FILES}test_so_many_checkpoints_are_kept_as_are_asked_for",
    ),
    Guard(
        CHECKPOINTS, "a damaged checkpoint ends the run though an older one is good",
        "training/folder.py",
        "                first = first or error\n                continue\n",
        "                raise\n",
        f"{FILES}test_the_newest_whole_checkpoint_is_gone_on_from",
    ),
    Guard(
        CHECKPOINTS, "what is damaged takes the good one's place",
        "training/resuming.py",
        "if path != folder.last:", "if False:",
        f"{FILES}test_the_newest_whole_checkpoint_is_gone_on_from",
    ),
    Guard(
        CHECKPOINTS, "a newer format is read as today's",
        "training/checkpoint.py",
        "if found > FORMAT:", "if False:",
        f"{FILES}test_newer_older_foreign_and_incomplete_checkpoints_are_a_sentence",
    ),
    Guard(
        CHECKPOINTS, "an older format cannot be read",
        "training/checkpoint.py",
        "= {1: _from_1}", "= {}",
        f"{FILES}test_the_first_format_is_brought_to_todays",
    ),
    Guard(
        CHECKPOINTS, "a foreign file is taken for a checkpoint",
        "training/checkpoint.py",
        'if not _is_identity(contents.get("identity", "")):', "if False:",
        f"{FILES}test_newer_older_foreign_and_incomplete_checkpoints_are_a_sentence",
    ),
    Guard(
        FAULTS, "a kill between metrics and checkpoint repeats an epoch's line",
        "training/loop.py",
        "        folder.cut_metrics(session.tally.epoch)\n", "",
        f"{RESUMED}test_a_kill_between_metrics_and_checkpoint_repeats_no_line",
    ),
    Guard(
        FAULTS, "SIGTERM is not answered",
        "training/interrupts.py",
        "        self.requested = True\n        if number", "        if number",
        f"{FOLDER}test_signals_save_and_say_how_to_go_on",
    ),
    Guard(
        RUN, "a run whose first step fails keeps its folder from the next try",
        "training/loop.py",
        "            folder.empty()\n", "            pass\n",
        f"{FOLDER}test_a_run_whose_first_step_fails_frees_its_folder[error0]",
    ),
    Guard(
        RUN, "a hangup ends a run unsaved",
        "training/interrupts.py",
        '"SIGUSR1", "SIGHUP")', '"SIGUSR1")',
        f"{FOLDER}test_signals_save_and_say_how_to_go_on[numbers3]",
    ),
    Guard(
        RUN, "a hangup ends a run under nohup",
        "training/interrupts.py",
        "signal.getsignal(n) != signal.SIG_IGN", "True",
        f"{FOLDER}test_under_nohup_a_hangup_stops_nothing",
    ),
    Guard(
        RUN, "a small file unpacks to more than the memory",
        "files.py",
        "> all_memory():", "> 2**62:",
        "tests/unit/test_data_arrays.py::test_what_unpacks_to_more_than_there_is_is_not_unpacked",
    ),
    Guard(
        FAULTS, "checkpoints follow a clock that jumps",
        "training/loop.py",
        "time.monotonic() - saved > 60", "time.time() - saved > 60",
        f"{FOLDER}test_a_checkpoint_is_due_after_so_many_minutes_whatever_the_clock_says",
    ),
    Guard(
        FAULTS, "a truncated image is a traceback",
        "decoding.py",
        "except Exception as error:  # Pillow's", "except EOFError as error:  # Pillow's",
        f"{IMAGES}test_image_folder_that_is_not_as_it_should_be",
    ),
    Guard(
        FAULTS, "the fingerprint does not see images that changed between runs",
        "training/identity.py",
        "for tensor in (split.images, split.targets):", "for tensor in (split.targets,):",
        f"{FOLDER}test_changed_data_are_seen_and_moved_data_are_not_minded",
    ),
    Guard(
        FAULTS, "a worker that dies takes the study with it",
        "study/pool.py",
        "        except (EOFError, OSError):\n            self.process.join()",
        "        except ZeroDivisionError:\n            self.process.join()",
        "tests/unit/test_study_processes.py::test_a_process_that_dies_loses_its_own_piece_alone",
    ),
    Guard(
        FAULTS, "a callback that raises leaves the network in evaluation mode",
        "modes.py",
        "        for module, flag in flags:\n            module.training = flag\n",
        "        pass\n",
        f"{ODD}test_a_mistake_in_ones_own_code_is_raised_as_it_is_and_costs_nothing",
    ),
    Guard(
        FAULTS, "too little memory is a traceback",
        "shortage.py",
        "except (MemoryError, RuntimeError) as error:", "except MemoryError as error:",
        f"{ODD}test_too_little_memory_names_the_size_of_the_batch[torch's]",
    ),
    Guard(
        FAULTS, "inputs of NaN are trained on",
        "checks.py",
        "if not (math.isfinite(least) and math.isfinite(most)):", "if False:",
        f"{REFUSED}[standard]",
    ),
    Guard(
        FAULTS, "a loss of NaN is trained on",
        "training/session.py",
        "if not math.isfinite(loss):", "if False:",
        "tests/unit/test_training_failures.py::"
        "test_a_loss_that_is_not_finite_stops_the_run_and_keeps_it",
    ),
    Guard(
        FAULTS, "weights of infinity are saved",
        "training/session.py",
        "if not is_finite(self.model.state_dict()):", "if False:",
        "tests/unit/test_training_failures.py::test_weights_that_are_not_finite_are_never_saved",
    ),
    Guard(
        FAULTS, "weights of NaN are evaluated",
        "training/loading.py",
        "if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):",
        "if False:",
        f"{FILES}test_weights_that_are_not_finite_are_not_measured",
    ),
    Guard(
        FAULTS, "a gradient of NaN gets into the memory",
        "layerwise/directions.py",
        "finite = torch.where(gradient.isfinite(), gradient, 0)", "finite = gradient",
        "tests/contracts/test_06_gradients.py::test_values_that_are_not_finite_leave_zeros[l2]",
    ),
    Guard(
        FAULTS, "a gradient of NaN gets into an attack",
        "tensors.py",
        "return gradient.nan_to_num(0.0, 0.0, 0.0)", "return gradient",
        "tests/unit/test_attacks_gradient.py::"
        "test_gradients_that_are_not_finite_leave_finite_inputs",
    ),
    Guard(
        FAULTS, "a damaged memory is added to activations",
        "layerwise/adversary.py",
        "if not is_finite(one):", "if False:",
        f"{ODD}test_a_damaged_memory_is_never_added",
    ),
    Guard(
        HOOKS, "an exception while attached leaves hooks",
        "layerwise/attach.py",
        "        self.detach()\n\n    def perturbs", "        pass\n\n    def perturbs",
        f"{EXCEPTIONS}test_an_exception_at_any_module",
    ),
    Guard(
        HOOKS, "an exception while a method is attached leaves hooks or flags",
        "methods/base.py",
        "        self._stack.close()\n", "        pass\n",
        f"{METHODS}test_an_exception_leaves_no_hook_and_no_flag[standard]",
    ),
    Guard(
        HOOKS, "an exception in an extra pass leaves batch statistics frozen",
        "modes.py",
        "            batch_norm.track_running_stats = True\n", "            pass\n",
        f"{METHODS}test_an_exception_leaves_no_hook_and_no_flag[vat]",
    ),
    Guard(
        HOOKS, "attaching that fails half-way leaves hooks",
        "layerwise/attach.py",
        "        except BaseException:\n            self.close()\n            raise\n",
        "        finally:\n            pass\n",
        f"{EXCEPTIONS}test_attaching_that_fails_half_way",
    ),
    Guard(
        HOOKS, "an interrupted forward pass ends the perturbation",
        "layerwise/attach.py",
        "            self._depth = 0  # an interrupt", "            pass  # an interrupt",
        f"{ATTACHED}test_an_interrupted_forward_pass_does_not_end_the_perturbation",
    ),
    Guard(
        HOOKS, "an exception in a pause leaves the adversary paused",
        "layerwise/adversary.py",
        "        try:\n            yield\n        finally:\n            self._pauses -= 1\n",
        "        yield\n        self._pauses -= 1\n",
        "tests/contracts/test_12_pauses.py::test_pauses_nest_and_end_on_an_exception",
    ),
    Guard(
        HOOKS, "a detached network is not the untouched one",
        "layerwise/attach.py",
        "            handle.remove()\n        self._handles = []\n",
        "            pass\n        self._handles = []\n",
        "tests/contracts/test_12_pauses.py::test_the_network_is_untouched",
    ),
    Guard(
        HOOKS, "a lost handle cannot be taken off",
        "layerwise/registry.py",
        "        adversary.detach()\n", "        pass\n",
        f"{ATTACHED}test_detaching_without_the_handle",
    ),
    Guard(
        HOOKS, "the compiler's setting is not put back",
        "layerwise/hooks.py",
        "_torch_compat.guard_module_hooks(self._before)", "pass",
        f"{ATTACHED}test_the_process_is_left_as_it_was",
    ),
    Guard(
        HOSTILE, "a pickle in a checkpoint is run",
        "training/checkpoint.py",
        "weights_only=True", "weights_only=False",
        f"{FILES}test_no_code_in_a_checkpoint_is_run",
    ),
    Guard(
        HOSTILE, "a pickle in an unfinished evaluation is run",
        "evaluation/pieces.py",
        "allow_pickle=False", "allow_pickle=True",
        f"{PARTS}test_no_code_in_an_unfinished_evaluation_is_run",
    ),
    Guard(
        HOSTILE, "a pickle in a file of arrays is run",
        "files.py",
        "np.load(path, allow_pickle=False) as file", "np.load(path, allow_pickle=True) as file",
        "tests/unit/test_data_arrays.py::test_arrays_that_are_not_as_they_should_be",
    ),
    Guard(
        HOSTILE, "a tag in a configuration is run",
        "training/configuration.py",
        "class _Loader(yaml.SafeLoader):", "class _Loader(yaml.UnsafeLoader):",
        f"{FOLDER}test_a_hostile_run_folder_runs_no_code_when_evaluated",
    ),
    Guard(
        HOSTILE, "an alias in a configuration makes a few lines endless",
        "training/configuration.py",
        "if self.check_event(yaml.AliasEvent):", "if False:",
        f"{ODD}test_a_configuration_that_says_two_things_or_none_is_refused",
    ),
    Guard(
        HOSTILE, "a configuration's own method is imported unasked",
        "cli/train.py",
        'if ":" in name and name not in given:', "if False:",
        f"{OPTIONS}test_a_configuration_does_not_run_code_that_the_command_line_does_not_name",
    ),
    Guard(
        HOSTILE, "a run's own network is imported unasked",
        "models/own.py",
        "if is_own_code(name) and trusted is None:", "if False:",
        "tests/unit/test_models_own.py::"
        "test_a_run_of_ones_own_network_is_loaded_only_where_it_is_named",
    ),
    Guard(
        HOSTILE, "decompression bombs are a warning",
        "decoding.py",
        'warnings.simplefilter("error", Image.DecompressionBombWarning)', "pass",
        f"{IMAGES}test_image_folder_that_is_not_as_it_should_be",
    ),
    Guard(
        HOSTILE, "HTML in a name reaches a study's page",
        "report/study/write.py",
        "escapes=True", "escapes=False",
        "tests/unit/test_report_study.py::test_texts_of_others_are_shown_and_not_run",
    ),
    Guard(
        HOSTILE, "HTML in a class name reaches the page of layers",
        "report/lots_page.py",
        "autoescape=True", "autoescape=False",
        "tests/unit/test_lots_page.py::test_what_comes_from_outside_is_escaped",
    ),
    Guard(
        HOSTILE, "a million classes are made of one label",
        "data/images.py",
        "if most >= max(targets.numel(), FEWEST):", "if False:",
        f"{ODD}test_arrays_that_say_something_else_are_refused",
    ),
    Guard(
        HOSTILE, "labels as floats are cut to whole numbers",
        "data/images.py",
        "(labels.is_floating_point() and (labels != labels.round()).any())", "False",
        "tests/unit/test_data_images.py::test_arrays_that_are_no_images_are_refused",
    ),
    Guard(
        HOSTILE, "a data set of one image is a raw error",
        "data/arrays.py",
        "if test is None and len(train) < 2:", "if False:",
        f"{ODD}test_one_image_or_one_class_is_too_few",
    ),
    Guard(
        HOSTILE, "a data set of one class is trained on",
        "training/builders.py",
        "    if len(classes) < 2:", "    if False:",
        f"{ODD}test_one_image_or_one_class_is_too_few",
    ),
    Guard(
        HOSTILE, "data sets without an image are measured",
        "evaluation/accuracy.py",
        "if not len(data.images):", "if False:",
        "tests/unit/test_evaluation_refusals.py::test_data_that_would_be_misread_are_refused",
    ),
    Guard(
        HOSTILE, "the hub is asked for a path instead of a repository",
        "data/sources.py",
        ' or ".." in repository:', ":",
        "tests/unit/test_data_hub.py::test_a_path_is_no_repository",
    ),
    Guard(
        HOSTILE, "an arm's label leads to another folder",
        "study/hashing_design.py",
        'c if c.isalnum() else " "', "c",
        "tests/unit/test_hashing_demo.py::test_a_label_leads_to_no_other_folder",
    ),
]  # fmt: skip
