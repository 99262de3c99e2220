import pytest

from confreg.figures.findings import findings, large_number
from confreg.figures.run_records import read_run


def test_a_finished_run_says_its_loss_and_who_is_named_since_when(make_run):
    loss, entropy, frequency = findings(read_run(make_run(n_neurons=32)))
    assert loss.startswith("After 1,500 optimizer steps (6.14 million target tokens) the loss on the measured text is 3.1")
    assert "above the 3.100 of a predictor that knows the language" in loss
    assert "nats below that of such a predictor: it is more sure than the evidence warrants. Its calibration error is 0.02" in loss
    assert entropy == (
        "4 entropy neurons are named at step 1,500: 1.0, 1.1, 1.2, 1.3 (formed since step 256); "
        "with random output directions of the same norms the rule names 0.05 on average."
    )
    assert frequency.startswith(
        "5 token-frequency neurons are named at step 1,500: 1.6 (formed since step 64); 1.4, 1.7 (formed since step 128)"
    )


def test_too_few_documents_are_given_as_the_reason_that_nothing_is_named(make_run):
    sentences = findings(read_run(make_run(steps=(0, 1, 1500), n_neurons=32, n_documents=8)))
    assert sentences[-1].startswith("Nothing is named: the measured text has 8 documents and the rules ask for at least 16")


def test_without_the_language_s_truth_only_the_loss_is_told(make_run):
    assert "predictor" not in " ".join(findings(read_run(make_run(steps=(0, 1500), n_neurons=32, bayes=False))))


def test_a_run_of_step_0_is_before_training_and_not_complete(make_run):
    sentences = findings(read_run(make_run(steps=(0,), n_neurons=32, status="running")))
    assert sentences[0] == "This run is not complete (status: running): it was last measured at step 0 of 1,500."
    assert sentences[1].startswith("Before training, at step 0, the loss")
    assert sentences[2].startswith("No entropy neuron is named at step 0;")


def test_a_neuron_named_for_the_first_time_has_not_formed_yet(make_run):
    sentences = findings(read_run(make_run(steps=(0, 1, 256), n_neurons=32, status="finished")))
    assert any("1.0, 1.1, 1.2, 1.3 (not yet formed)" in sentence for sentence in sentences)


def test_of_fewer_steps_than_forming_takes_nobody_says_that_a_neuron_has_not_formed(make_run):
    sentences = findings(read_run(make_run(steps=(0, 256), n_neurons=32, status="finished")))
    assert any("1.0, 1.1, 1.2, 1.3 (since when takes 3 measured steps to say)" in sentence for sentence in sentences)


def test_a_neuron_that_formed_and_was_lost_is_told(make_run):
    records = read_run(make_run(n_neurons=32))
    is_last = records.neurons["step"] == 1500
    records.neurons.loc[is_last & (records.neurons["neuron"] == 0), "is_entropy_neuron"] = False
    assert findings(records)[-1] == "Formed earlier and no longer named: 1.0 (entropy, step 256)."


def test_steps_that_were_measured_again_are_no_incomplete_run(make_run):
    records = read_run(make_run(steps=(0, 256), n_neurons=32))
    records.facts.update(status="finished", measured_again={"folder": "../.."})
    assert findings(records)[0] == "2 saved steps of a run, measured again; measured.json says by which request."
    assert findings(records)[1].startswith("After 256 optimizer steps")
    records.facts.update(status="interrupted")
    assert findings(records)[1] == "Not every step that was asked for is here (status: interrupted)."


@pytest.mark.parametrize(("count", "text"), [(950, "950"), (12300, "12,300"), (6.144e6, "6.14 million"), (2.5e9, "2.5 billion")])
def test_large_numbers_are_said_in_words(count, text):
    assert large_number(count) == text


def test_a_configuration_edited_into_nonsense_is_not_believed(make_run):
    records = read_run(make_run(steps=(0, 1500), n_neurons=32, n_documents=8))
    records.config["measure"]["request"]["rules"]["clusters_min"] = "<script>"
    assert "the rules ask for at least 16," in findings(records)[-1]


def test_a_run_that_was_stopped_early_is_complete_and_averaged_weights_are_told(make_run):
    records = read_run(make_run(steps=(0, 1, 256), n_neurons=32, status="finished"))
    records.facts.update(stopped_early=True, measured_weights="averaged")
    sentences = findings(records)
    assert sentences[0].startswith("What is measured and saved here are averages of the weights")
    assert sentences[1] == "This run was stopped early, at step 256 of 1,500; that step was measured as its last."
