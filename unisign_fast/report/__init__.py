"""The report of a run: one HTML file, readable without a network.

run_folder     the files of a run: settings, log, scores, predictions, weights
head           what was trained, by which code, on which data
score_table    the scores beside the paper's, also as CSV and LaTeX
charts         curves and histograms as the numbers of an SVG
ranking        how each prediction compares with its reference; the worst and the best
words          confusion matrix and worst words of isolated recognition
clip_view      what the page shows of a clip: skeleton, hand crops, video frames
fusion_probe   gates and sampling points of the model
clip_figures   a clip's view as the numbers of its pictures; pictures: as text inside the page
page           puts all of it into one file, through the templates (*.j2), style.css and script.js
"""
